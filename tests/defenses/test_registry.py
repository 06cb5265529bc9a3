"""The registry: names are file stems, unknown names answer with the nearest, files outside the package may join."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from defenses.base import Defense, Purifier, defenses
from defenses.jpeg import JPEG
from defenses.registry import ClassRegistry, ModuleRegistry, Registry, UnknownName, unknown_name

OUTSIDE = '''
from dataclasses import dataclass
from typing import ClassVar

from defenses.base import Purifier, register


@register
@dataclass(frozen=True, kw_only=True)
class Brighten(Purifier):
    """Adds amount."""

    source: ClassVar[str] = "this test"
    stochastic: ClassVar[bool] = False

    amount: float = 0.5

    def build(self, **given):
        return lambda images, noise: images + self.amount
'''


def load(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


def test_make_is_the_inverse_of_params() -> None:
    defense = defenses.make("jpeg", {"quality": 30})
    assert defense == JPEG(quality=30) and defense.name == "jpeg"
    assert defenses.make("jpeg", json.loads(json.dumps(defense.params()))) == defense
    assert defenses.make("jpeg") == JPEG()


def test_every_file_with_a_registered_class_is_found() -> None:
    package = Path(sys.modules["defenses"].__file__ or "").parent
    files = {path.stem for path in package.glob("*.py") if "\n@register\n" in path.read_text()}
    shipped = [name for name, cls in defenses.items() if cls.__module__.startswith("defenses.")]
    assert shipped == sorted(files) and list(defenses) == sorted(defenses)
    assert all(issubclass(cls, Defense) for cls in defenses.values())


def test_unknown_name() -> None:
    with pytest.raises(LookupError) as error:
        defenses["diffpure_sd"]
    message = str(error.value)
    assert message.startswith("Unknown defense 'diffpure_sd'. Did you mean 'diffpure_sde'? Known: ")
    assert all(name in message for name in defenses)
    assert str(unknown_name("attack", "xyzzy", ["pgd", "apgd"])) == "Unknown attack 'xyzzy'. Known: apgd, pgd."


def test_unknown_field_and_abstract_class_are_refused() -> None:
    with pytest.raises(TypeError, match="qualty"):
        defenses.make("jpeg", {"qualty": 30})
    with pytest.raises(TypeError, match="abstract"):
        Purifier()  # type: ignore[abstract]


def test_a_file_outside_the_package_joins_under_its_stem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defenses, "_items", dict(defenses))
    path = tmp_path / "my_brighten.py"
    path.write_text(OUTSIDE)
    load(path)
    made = defenses.make("my_brighten", {"amount": 0.25})
    assert made.name == "my_brighten" and repr(made) == "Brighten(runs=1, combine='logits', amount=0.25)"
    load(path)  # the same file again is no conflict
    path.write_text(OUTSIDE.replace("class Brighten", "class Darken"))
    with pytest.raises(ValueError, match=r"Two defense classes in my_brighten.py: Brighten and Darken\."):
        load(path)


def test_a_registry_of_another_package_is_its_own() -> None:
    empty: ClassRegistry[Defense] = ClassRegistry("thing", "json")
    assert len(empty) == 0 and "jpeg" not in empty and "jpeg" in defenses
    with pytest.raises(LookupError, match="Unknown thing 'jpeg'"):
        empty["jpeg"]


@dataclass(frozen=True)
class Thing:
    name: str


def things(*names: str) -> Registry[Thing]:
    registry: Registry[Thing] = Registry("thing")
    for name in names:
        registry.register(Thing(name))
    return registry


def test_records_keep_their_order_and_a_taken_name_is_refused() -> None:
    registry = things("b", "a")
    assert list(registry) == ["b", "a"] and registry["a"] == Thing("a") and registry.get("c") is None
    with pytest.raises(ValueError, match="Expected a new thing name, got 'a', which is registered. Choose another"):
        registry.register(Thing("a"))
    del registry["a"]
    assert registry.register(Thing("a")) == Thing("a")
    with pytest.raises(UnknownName):
        del registry["c"]


def test_a_resolver_answers_for_its_prefix() -> None:
    registry = things("plain")
    registry.resolve("file:", Thing, "file:<path>")
    assert registry["file:x.pt"] == Thing("file:x.pt")
    assert list(registry) == ["plain"] and "file:x.pt" not in registry
    with pytest.raises(LookupError) as error:
        registry["fiel:x.pt"]
    assert str(error.value).endswith("Known: file:<path>, plain.")


def test_temporary_registrations_leave_nothing_behind() -> None:
    registry = things("plain")
    with pytest.raises(RuntimeError), registry.temporarily([Thing("one"), Thing("two")]):
        assert list(registry) == ["plain", "one", "two"]
        raise RuntimeError
    with pytest.raises(ValueError, match="which is registered"), registry.temporarily([Thing("one"), Thing("plain")]):
        pass
    assert list(registry) == ["plain"]


def test_a_registry_of_modules_imports_what_is_asked_for() -> None:
    registry = ModuleRegistry("decoder", "json", lambda module: module.__name__)
    assert {"decoder", "encoder"} < set(registry) and len(registry) == len(list(registry))
    assert registry["decoder"] == "json.decoder" and "decoder" in registry and "decode" not in registry
    with pytest.raises(LookupError, match="Unknown decoder 'decode'. Did you mean 'decoder'?"):
        registry["decode"]


def test_importing_the_package_costs_no_torch() -> None:
    code = "import sys, defenses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_a_name_belongs_to_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a shipped defense under its name, or another file of the same name, is another defense."""

    def load(path: Path) -> None:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)

    shipped = Path(sys.modules["defenses"].__file__ or "").parent / "jpeg.py"
    copy = tmp_path / "jpeg.py"
    copy.write_text(shipped.read_text())
    with pytest.raises(ValueError, match="'jpeg', which ships with this package. Rename the file"):
        load(copy)
    first, second = tmp_path / "a" / "twice_mine.py", tmp_path / "b" / "twice_mine.py"
    for path in (first, second):
        path.parent.mkdir()
        path.write_text(shipped.read_text())
    try:
        load(first)
        load(first)  # the same file again
        with pytest.raises(ValueError, match="Rename one of the two files"):
            load(second)
    finally:
        del defenses["twice_mine"]
