() => {  // what gradio's page leaves out: names for pictures that are buttons, lasting live regions, the phone's way down
  const PHONE = '(max-width: 640px)', PICTURE = 560;  // pixels that a picture and its caption take

  const words = (address) => decodeURIComponent(address.split('/').pop()).replace(/\.\w+$/, '').replaceAll('-', ' ');

  const named = (node, name) => { if (node.getAttribute('aria-label') !== name) node.setAttribute('aria-label', name); };

  function nameAll() {
    for (const item of document.querySelectorAll('.thumbnail-item')) {  // else "Thumbnail 1 of 22"
      const caption = item.querySelector('.caption-label')?.textContent.trim();
      if (caption) named(item, caption);
      item.querySelector('img')?.setAttribute('alt', '');
    }
    for (const item of document.querySelectorAll('button.gallery-item')) {  // an example: its file's name
      const image = item.querySelector('img');
      if (image) named(item, `example: ${words(image.src)}`);
    }
    document.querySelector('#first-seed')?.setAttribute('aria-label', 'the first seed again');
    for (const region of document.querySelectorAll('#live, #found-words')) region.setAttribute('aria-live', 'polite');
  }

  let planned = false;
  new MutationObserver(() => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => { planned = false; nameAll(); });
  }).observe(document.body, { childList: true, subtree: true });
  nameAll();

  document.addEventListener('click', (event) => {  // the picture comes further down: show its place
    if (!event.target.closest('#generate, #vary, #others')) return;
    const room = window.innerHeight - document.querySelector('#results').getBoundingClientRect().top;
    if (room > PICTURE) return;
    const top = document.querySelector(matchMedia(PHONE).matches ? '#live' : '#go-row');
    top.scrollIntoView({ behavior: matchMedia('(prefers-reduced-motion)').matches ? 'auto' : 'smooth', block: 'start' });
  });
}
