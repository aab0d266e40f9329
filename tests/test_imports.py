"""Who imports whom (docs: the house's rule), and that importing the package costs little."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bolid"
# The house's order: a module imports from its own level or from those before it.
LEVELS = (
    {"pictures", "pose", "appearance", "attention", "body", "detail", "garments"}
    | {"layout", "reference", "avatars"}
    | {"autoencoder", "estimator", "estimators", "regions"},
    {"encoder", "adapter", "identity", "losses", "lightning"},
    {"inputs", "request", "variants", "plan", "conditioning", "posing", "care", "refine", "hub"}
    | {"loading", "pipeline", "pipeline_xl"},
    {"baselines", "assemble", "export"},
    {"training", "metrics", "intervals", "evaluators", "attribute_evaluator", "head_evaluator"}
    | {"evaluation", "preparation", "clothes"},
    {"__init__", "__main__", "doctor"},
    {"space"},
)  # fmt: skip
AT_IMPORT = {
    "torch",
    "numpy",
    "scipy",
    "cv2",
    "PIL",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "tqdm",
    "yaml",
    "bolid",
}
LAZY_ONLY = (
    "gradio",
    "datasets",
    "insightface",
    "controlnet_aux",
    "torch_fidelity",
    "lpips",
    "pyarrow",
    "peft",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The name that LEVELS knows: a module of the package, or a sub-package."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "appearance" if name.startswith("appearance_") else name


def imported(path: Path, *, top_only: bool) -> set[str]:
    """Absolute dotted names that a file imports; with top_only those that run when it is imported."""
    tree = ast.parse(path.read_text())
    nodes = list(_top_level(tree)) if top_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*folder, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return names


def _top_level(tree: ast.AST) -> list[ast.AST]:
    """Nodes outside functions and outside `if TYPE_CHECKING`."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        found += [node, *_top_level(node)]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    level = {name: index for index, names in enumerate(LEVELS) for name in names}
    own = unit(path)
    assert own in level, f"bolid/{own} has no place in LEVELS: add it where the house's order has it"
    for name in imported(path, top_only=False):
        parts = name.split(".")
        if parts[0] == "bolid" and len(parts) > 1 and parts[1] in level:
            assert level[parts[1]] <= level[own], f"{path.name} imports {name}, which stands later"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_core_is_imported_at_the_top(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path, top_only=True)}
    if unit(path) == "space":  # the page's own pieces, which nothing else imports
        roots -= {"gradio", "pydantic"}  # gradio hands over pydantic models
    assert not roots - AT_IMPORT - sys.stdlib_module_names


@pytest.mark.parametrize("script", ["train/run.py", "eval/run.py", "app.py", "examples/generate.py"])
def test_scripts_import_from_the_package_only(script: str) -> None:
    path = ROOT / script
    if not path.is_file():
        pytest.skip(f"{script} is not there yet")
    roots = {name.split(".")[0] for name in imported(path, top_only=False)}
    assert not roots & {"train", "eval", "app", "examples"}


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_importing_the_pipelines_pulls_in_no_optional_library() -> None:
    """accelerate is not among them: diffusers imports it by itself where it is installed."""
    code = (
        "import sys, diffusers, transformers, torch\n"
        "from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline\n"
        "before = set(sys.modules)\n"
        "import bolid\n"
        "from bolid import BoLIDPipeline, BoLIDXLPipeline, Identity, Pose, Reference\n"
        f"print([name for name in {LAZY_ONLY} if name in sys.modules and name not in before])\n"
    )
    assert run(code).strip() == "[]"


@pytest.mark.parametrize(("family", "module"), [("", "pipeline"), ("XL", "pipeline_xl")])
def test_importing_a_pipeline_costs_little_more_than_the_stock_one(family: str, module: str) -> None:
    """CPU seconds in one process, the stock pipeline first: ours may add 15 % to it."""
    code = (
        "import time\n"
        f"from diffusers import StableDiffusion{family}Pipeline\n"
        "stock = time.process_time()\n"
        f"import bolid.{module}\n"
        "print((time.process_time()) / stock)\n"
    )
    assert float(run(code)) <= 1.15


def test_importing_the_package_alone_loads_nothing_heavy() -> None:
    heavy = ("torch", "diffusers", "transformers", "cv2")
    assert run(f"import sys, bolid; print([n for n in {heavy} if n in sys.modules])").strip() == "[]"


def test_public_names() -> None:
    import bolid

    assert {"BoLIDPipeline", "BoLIDXLPipeline", "Identity", "Pose", "Reference"} <= set(dir(bolid))
    assert bolid.Pose.__module__ == "bolid.pose"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        bolid.Nothing  # noqa: B018
