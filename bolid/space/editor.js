// The draggable skeleton: pointer, touch and keyboard. `element`, `props`, `trigger`, `watch` come from gradio.
const NS = 'http://www.w3.org/2000/svg';
const HIDDEN = 0.5, STEP = 0.01, BIG_STEP = 0.05, UNDO_DEPTH = 50;
let joints = [], start = null, name = null, past = [], chosen = null, dragged = null;

const clone = (rows) => rows.map((row) => [...row]);
const clamp = (x) => Math.min(1, Math.max(0, x));
const say = (text) => { const live = element.querySelector('.said'); if (live) live.textContent = text; };

function take() {  // a new pose from Python
  const value = props.value;
  const free = !value || !value.keypoints;
  joints = free ? [] : clone(value.keypoints);
  start = free ? null : { joints: clone(joints), name: value.name };
  name = free ? null : value.name;
  past = []; chosen = null;
  draw();
}

function give(text) {  // the user's pose to Python
  props.value = joints.length ? { keypoints: clone(joints), name } : null;
  draw(); requestAnimationFrame(draw);  // gradio may have rendered the template anew
  say(text);
  trigger('input');
}

function remember() { past.push({ joints: clone(joints), name }); if (past.length > UNDO_DEPTH) past.shift(); }

function make(kind, attributes, parent) {
  const node = document.createElementNS(NS, kind);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.appendChild(node);
  return node;
}

function draw() {
  const svg = element.querySelector('svg'); if (!svg) return;
  const focused = document.activeElement && element.contains(document.activeElement)
    && document.activeElement.getAttribute('data-joint');
  const W = props.canvas_width, H = props.canvas_height;
  svg.replaceChildren();
  if (!joints.length) {
    const text = make('text', { x: W / 2, y: H / 2, fill: '#bbb', 'text-anchor': 'middle', 'font-size': 14 }, svg);
    text.textContent = 'free pose: choose one to edit it';
  }
  props.limbs.forEach(([a, b], i) => {
    if (!joints.length || joints[a][2] <= 0 || joints[b][2] <= 0) return;
    const dim = Math.min(joints[a][2], joints[b][2]) < 0.75;
    make('line', { x1: joints[a][0] * W, y1: joints[a][1] * H, x2: joints[b][0] * W, y2: joints[b][1] * H,
      stroke: props.colors[i], 'stroke-width': 6, 'stroke-opacity': dim ? 0.35 : 0.7, 'stroke-linecap': 'round' }, svg);
  });
  joints.forEach(([x, y, sure], i) => {
    if (sure <= 0) return;
    const state = sure < 0.75 ? 'hidden behind the body' : 'seen';
    const group = make('g', { 'data-joint': i, tabindex: 0, role: 'button', 'aria-roledescription': 'movable joint',
      'aria-label': `${props.names[i]}, ${Math.round(x * 100)} % from the left, ${Math.round(y * 100)} % from the top, ${state}`,
      class: 'joint' }, svg);
    make('circle', { cx: x * W, cy: y * H, r: 15, fill: 'transparent' }, group);  // room for a finger
    make('circle', { class: 'dot', cx: x * W, cy: y * H, r: 7, fill: props.colors[i], 'fill-opacity': sure < 0.75 ? 0.55 : 1 }, group);
  });
  if (focused !== null && focused !== undefined && focused !== false)
    element.querySelector(`[data-joint="${focused}"]`)?.focus({ preventScroll: true });
  const missing = element.querySelector('.missing');
  if (missing) {
    missing.replaceChildren(new Option('add a joint …', ''));
    joints.forEach((joint, i) => { if (joint[2] <= 0) missing.appendChild(new Option(props.names[i], i)); });
    missing.disabled = missing.options.length < 2;
  }
  mark();
}

function mark() {  // which joint is chosen, and what can be done: without a new drawing, which a finger would not survive
  for (const group of element.querySelectorAll('[data-joint]')) group.classList.toggle('chosen', +group.dataset.joint === chosen);
  for (const button of element.querySelectorAll('button[data-do]')) {
    const act = button.dataset.do;
    button.disabled = act === 'undo' ? !past.length : act === 'hide' || act === 'behind' ? chosen === null : !joints.length;
  }
}

const jointOf = (node) => { const group = node.closest && node.closest('[data-joint]'); return group ? +group.dataset.joint : null; };

function put(i, x, y) { joints[i][0] = +clamp(x).toFixed(4); joints[i][1] = +clamp(y).toFixed(4); name = null; }

function hide(i) {  // the focus goes on to the next joint: the keyboard must not fall off the page
  remember(); joints[i] = [0, 0, 0]; name = null; chosen = null; give(`${props.names[i]} removed`);
  const next = joints.findIndex((joint, j) => j > i && joint[2] > 0);
  element.querySelector(`[data-joint="${next < 0 ? joints.findIndex((joint) => joint[2] > 0) : next}"]`)
    ?.focus({ preventScroll: true });
}

function behind(i) {
  remember(); joints[i][2] = joints[i][2] < 0.75 ? 1 : HIDDEN; name = null;
  give(`${props.names[i]} is ${joints[i][2] < 0.75 ? 'hidden behind the body' : 'seen'}`);
}

function add(i) {  // at the middle of its neighbours, or of the body
  remember();
  const near = props.limbs.filter((limb) => limb.includes(i)).map(([a, b]) => (a === i ? b : a)).filter((j) => joints[j][2] > 0);
  const from = near.length ? near : joints.map((_, j) => j).filter((j) => joints[j][2] > 0);
  const mean = (axis) => from.length ? from.reduce((sum, j) => sum + joints[j][axis], 0) / from.length : 0.5;
  joints[i][2] = 1; put(i, mean(0) + 0.04, mean(1) + 0.03); chosen = i;
  give(`${props.names[i]} added`);
  element.querySelector(`[data-joint="${i}"]`)?.focus({ preventScroll: true });
}

function mirror() {
  remember();
  const old = clone(joints);
  joints = props.mirror.map((j) => { const [x, y, sure] = old[j]; return x || y ? [+(1 - x).toFixed(4), y, sure] : [0, 0, sure]; });
  name = null; give('mirrored');
}

function restore(state, text) { joints = clone(state.joints); name = state.name; chosen = null; give(text); }

element.addEventListener('pointerdown', (event) => {
  const i = jointOf(event.target); if (i === null) return;
  dragged = i; chosen = i; remember();
  event.preventDefault(); mark();
  event.target.closest('[data-joint]').focus({ preventScroll: true });
});
// a finger on a joint drags it and does not scroll the page (touch-action has no effect inside an svg)
element.addEventListener('touchstart', (event) => { if (jointOf(event.target) !== null) event.preventDefault(); },
  { passive: false });
window.addEventListener('pointermove', (event) => {
  if (dragged === null) return;
  const box = element.querySelector('svg').getBoundingClientRect();
  put(dragged, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  draw();
});
const drop = () => { if (dragged === null) return; const i = dragged; dragged = null; give(`${props.names[i]} moved`); };
window.addEventListener('pointerup', drop);
window.addEventListener('pointercancel', drop);
element.addEventListener('focusin', (event) => {
  const i = jointOf(event.target); if (i === null || i === chosen) return;
  chosen = i; mark();
});
element.addEventListener('keydown', (event) => {
  const i = jointOf(event.target); if (i === null) return;
  const by = event.shiftKey ? BIG_STEP : STEP;
  const move = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
  if (move) { remember(); put(i, joints[i][0] + move[0], joints[i][1] + move[1]); give(''); }
  else if (event.key === 'Delete' || event.key === 'Backspace') hide(i);
  else if (event.key === 'h') behind(i);
  else return;
  event.preventDefault();
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]'); if (!button || button.disabled) return;
  const act = button.dataset.do;
  if (act === 'mirror') mirror();
  else if (act === 'reset' && start) { remember(); restore(start, 'reset'); }
  else if (act === 'undo' && past.length) restore(past.pop(), 'undone');
  else if (act === 'hide' && chosen !== null) hide(chosen);
  else if (act === 'behind' && chosen !== null) behind(chosen);
});
element.addEventListener('change', (event) => {
  if (!event.target.matches('.missing') || event.target.value === '') return;
  event.stopPropagation(); add(+event.target.value);
});
watch('value', () => { if (dragged === null && JSON.stringify(props.value?.keypoints) !== JSON.stringify(joints)) take(); else draw(); });
take();
