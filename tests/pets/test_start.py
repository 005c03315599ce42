"""What is imported when: nothing heavy before it is needed, and our methods as soon as peft is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from places import REPOSITORY

import pets
from pets.cli import COMMANDS, cli

HEAVY = {"torch", "transformers", "peft", "numpy", "scipy", "sklearn", "datasets", "matplotlib"}


def python(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def said(program: str, *args: str) -> list[str]:
    done = python(program, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "program",
    [
        "import bridges",
        "import pets",
        "import pets.cli",
        "from pets.cli import main; main(['--version'])",
        "from pets.cli import main; main(['--help'])",
        "from pets.cli import main\ntry: main([])\nexcept SystemExit: pass",
        "from pets.cli import main\ntry: main(['fot'])\nexcept SystemExit: pass",
        "from pets import tasks; tasks.available()",
    ],
)
def test_nothing_heavy_is_imported(program: str) -> None:
    *_, names = said(f"import sys\n{program}\nprint(*sys.modules)")
    assert "bridges" in names.split()
    assert not HEAVY & set(names.split())


def test_the_short_helps_are_the_commands_own() -> None:
    """They are written where no command has to be imported for them."""
    context = click.Context(cli)
    for name, short in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert (command.help or "").partition("\n")[0] == short
    assert cli.get_command(context, "fot") is None
    files = (REPOSITORY / "pets" / "commands").glob("*.py")
    assert {path.stem for path in files} - {"__init__", "options"} == set(COMMANDS)


def test_type_checkers_see_the_names_that_are_there() -> None:
    tree = ast.parse((REPOSITORY / "pets" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == pets.__all__
    for name, path in seen.items():
        module, _, attribute = path.rpartition(".")
        assert getattr(pets, name) is getattr(sys.modules[module], attribute)
    assert set(pets.__all__) <= set(dir(pets))
    with pytest.raises(AttributeError, match="module 'pets' has no attribute 'regularise'"):
        pets.regularise  # noqa: B018


# Our methods in a process that only loads one

REGISTERED = """
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as targets
print("ADAPTER" in known, "BITFIT" in known, targets["distilbert"])
print([finder for finder in sys.meta_path if type(finder).__module__.startswith("pets")])
"""
DONE = ["True True ['q_lin', 'v_lin']", "[]"]


# What peft imports takes seconds and is the same for all: a process has it, and each program is a fork.
FORKS = """
import json, os, sys, traceback
import accelerate, transformers.modeling_utils
assert not {"peft", "pets"} & set(sys.modules)
for program in json.loads(sys.argv[1]):
    print("--", flush=True)
    child = os.fork()
    if not child:
        try:
            exec(program, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""
THREADS = """
import sys, threading, pets
problems, ready = [], threading.Barrier(6)
def work(k):
    ready.wait()
    try:
        if k % 3 == 0:
            pets.get("adapter")
        elif k % 3 == 1:
            from peft import PeftConfig
        else:
            import pets.methods.bitfit as ours
    except BaseException as error:
        problems.append(repr(error))
threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(problems)
"""


PROGRAMS = {
    "import peft, pets": DONE,
    "import pets, peft": DONE,
    "import pets; from peft.utils import PeftType": DONE,
    "import pets; pets.get('lora')": DONE,
    "import pets.methods": DONE,
    "import pets.methods.lora": DONE,
    "import pets, importlib.util; importlib.util.find_spec('peft'); import peft": DONE,
    "import pets, importlib; importlib.reload(pets); import peft; importlib.reload(pets)": DONE,
    THREADS: ["[]", *DONE],
}


@pytest.mark.slow
def test_peft_knows_our_methods_whoever_imports_it_first_threads_too() -> None:
    programs = [f"import sys\n{program}\n{REGISTERED}" for program in PROGRAMS]
    parts = "\n".join(said(FORKS, json.dumps(programs))).split("--\n")[1:]
    assert dict(zip(PROGRAMS, map(str.splitlines, parts), strict=True)) == PROGRAMS


def test_without_peft_nothing_happens_and_an_error_of_ours_takes_nothing_down(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import sys\nvalue = 6 // sys.divisor\n")
    (tmp_path / "broken.py").write_text("raise ValueError('half installed')\n")
    program = (
        "import sys, warnings; sys.path.insert(0, sys.argv[1])\n"
        "from pets.on_import import import_after\n"
        "for name in ('late', 'late', 'absent'): import_after(name, 'broken')\n"
        "before = list(sys.meta_path)\n"
        "sys.divisor = 0\n"
        "try: import late\n"
        "except ZeroDivisionError: print(before == sys.meta_path)\n"
        "sys.divisor = 2\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    import late\n"
        "print(late.value, [str(w.message) for w in seen])\n"
        "print(type(late.__spec__.loader).__name__, type(late.__loader__).__name__)\n"
        "print(sys.meta_path == before[:1] + before[2:])\n"
        "try: import absent\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    assert said(program, str(tmp_path)) == [
        "True",
        "3 ['broken could not follow the import of late: half installed']",
        "SourceFileLoader SourceFileLoader",
        "True",
        "No module named 'absent'",
    ]
