"""Reads the trainer's own sources: what they import, which names they never bind, which files they
open.

Part of the probe: runs in the subject, with the standard library alone.
"""

import ast
import builtins
import os
import re
import shutil
import symtable
import sys

#: Folders of other people's code, and of none.
OTHERS = ("site-packages", "dist-packages", "node_modules", "__pycache__", ".git", "conda-meta")
#: No more sources than this are read.
MOST_SOURCES = 2000
#: A file that a program reads its settings from.
CONFIG = re.compile(r"^[\w./-]*\w\.(?:ya?ml|json|toml|ini|cfg)$")
#: Settings of tools that build, test and format, which no run reads.
TOOLS = re.compile(
    r"^(\..*|pyproject\.toml|setup\.cfg|tox\.ini|pytest\.ini|mypy\.ini|ruff\.toml|package(-lock)?\.json"
    r"|tsconfig.*\.json|mkdocs\.ya?ml|environment\.ya?ml|docker-compose.*|compose\.ya?ml)$"
)
#: What the interpreter binds in every module.
BOUND = set(dir(builtins)) | {
    "__file__",
    "__path__",
    "__annotations__",
    "__builtins__",
    "__class__",
    "__module__",
    "__qualname__",
    "__conditional_annotations__",
    "__classdict__",
    "WindowsError",
}
#: A Python script, or a module, in a line of a shell script.
IN_SHELL = re.compile(r"(?:^|[\s\"'])(/[\w./-]+\.py)\b|python[\d.]*\s+(?:-\w+\s+)*-m\s+([\w.]+)")


def locate(argv, workdir):
    """The Python script that an entry point runs in the end, or None.

    Its first argument in .py, its module, a script that is a program, or what a shell script calls.
    """
    for number, word in enumerate(argv):
        if word == "-m" and number + 1 < len(argv):
            return module_file(argv[number + 1], [workdir, *sys.path])
        if word.endswith(".py"):
            return os.path.join(workdir, word)
    program = shutil.which(argv[0]) if argv else None
    if not program:
        return None
    try:
        with open(program, "rb") as file:
            script = file.read(65536).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    first = script.partition("\n")[0]
    if not first.startswith("#!"):
        return None
    if "python" in first:
        return program
    for path, module in IN_SHELL.findall(script):
        found = path or module_file(module, [workdir, *sys.path])
        if found:
            return found
    return None


def module_file(module, folders):
    """The file of a module: its own, or its package's __main__."""
    path = module.replace(".", "/")
    for folder in folders:
        for end in (".py", "/__main__.py", "/__init__.py"):
            if os.path.isfile(os.path.join(folder, path + end)):
                return os.path.join(folder, path + end)
    return None


def shipped(script, is_wanted=lambda name: name.endswith(".py")):
    """Every wanted file beside the script and below, without other people's."""
    folder = os.path.dirname(script)
    found = set()
    if not folder or os.path.basename(folder) in ("", "bin", "sbin"):
        return []
    for where, folders, files in os.walk(folder):
        folders[:] = [
            f
            for f in folders
            if f not in OTHERS and not os.path.exists(os.path.join(where, f, "pyvenv.cfg"))
        ]
        found.update(os.path.join(where, f) for f in files if is_wanted(f))
        if len(found) > MOST_SOURCES:
            break
    return sorted(found)


def sources(script):
    """Every shipped .py, compiled in memory; and the script's closure."""
    found, trees = [], {}
    for path in sorted({script, *shipped(script)}):
        error, mode, missing = None, 0, []
        try:
            mode = os.stat(path).st_mode & 0o7777
            with open(path, "rb") as file:
                text = file.read()
            trees[path] = ast.parse(text, path)
            compile(text, path, "exec", dont_inherit=True)
            missing = undefined(text, path)
        except (OSError, SyntaxError, ValueError) as problem:
            error = "{}: {}".format(type(problem).__name__, problem)
        found.append({"path": path, "error": error, "mode": mode, "undefined": missing})
    return (found, *closure(script, trees))


def settings_of(script, described_by):
    """Files of settings beside the script and below, but for the one that describes the image."""
    wanted = shipped(script, lambda name: CONFIG.match(name) and not TOOLS.match(name))
    return [p for p in map(os.path.realpath, wanted) if p != os.path.realpath(described_by or "/")]


def undefined(text, path):
    """Names that no scope binds and the interpreter does not know: a NameError once they are read.

    Nothing is said of a module that imports all names of another.
    """
    if re.search(rb"import\s+\*", text):
        return []
    top = symtable.symtable(text.decode("utf-8", "replace"), path, "exec")
    bound, read, waiting = set(BOUND), set(), [top]
    while waiting:
        table = waiting.pop()
        waiting.extend(table.get_children())
        for symbol in table.get_symbols():
            name = symbol.get_name()
            binds = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
            if binds and (table is top or symbol.is_declared_global()):
                bound.add(name)
            elif symbol.is_referenced() and symbol.is_global() and name.isidentifier():
                read.add(name)
    # Inside a class a name with two underscores is mangled.
    return sorted(n for n in read - bound if not re.match(r"_[A-Za-z]\w*__\w", n))


def closure(script, trees):
    """What the script and every shipped module that it leads to import, as {module: {names}}; what
    they try and can do without; and the settings that they open by default.

    A shipped module is needed, whether it is tried or not.
    """
    base, modules, optional, settings = os.path.dirname(script), {}, set(), {}
    waiting, seen = [script], set()
    while waiting:
        path = waiting.pop()
        if path in seen or path not in trees:
            continue
        seen.add(path)
        needed, tried = imported(trees[path], package_of(path, base))
        for module, names in [*needed.items(), *tried.items()]:
            own = [
                f
                for m in (module, *("%s.%s" % (module, n) for n in names))
                for f in own_files(m, base)
            ]
            waiting += own
            if own or module in needed:
                modules.setdefault(module, set()).update(names)
            else:
                optional.add(module)
        for name in opened(trees[path]):
            folders = (os.getcwd(), base, os.path.dirname(path))
            settings[name] = any(os.path.exists(os.path.join(f, name)) for f in folders)
    return {m: sorted(modules[m]) for m in sorted(modules)}, sorted(optional), settings


def own_files(module, base):
    """The shipped files that an import runs: those of its packages, and its own."""
    parts = module.split(".")
    whole = [os.path.join(base, *parts[: n + 1]) for n in range(len(parts))]
    found = [path + end for path in whole for end in ("/__init__.py", "/__main__.py")]
    return [f for f in [*found, whole[-1] + ".py"] if os.path.isfile(f)]


def package_of(path, base):
    """The package that a file is in, as a dotted name; "" at the top."""
    return ".".join(os.path.relpath(path, base).split(os.sep)[:-1])


def imported(tree, package=""):
    """What a module imports, late imports too, as {module: {names}}; and what it tries likewise."""
    stack, needed, tried = [(tree, False)], {}, {}
    while stack:
        node, trial = stack.pop()
        found = tried if trial else needed
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set())
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join(x for x in [*above, node.module] if x)
            if module:
                names = {alias.name for alias in node.names if alias.name != "*"}
                found.setdefault(module, set()).update(names)
        elif isinstance(node, ast.Try) and node.handlers:
            stack += [(child, True) for child in node.body]
            stack += [(n, trial) for n in node.handlers + node.orelse + node.finalbody]
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            stack += [(child, trial) for child in ast.iter_child_nodes(node)]
    return needed, tried


def opened(tree):
    """Settings that a module opens by name or takes as a default, outside SageMaker's mounts."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        given = [k.value for k in node.keywords if k.arg == "default"]
        if called == "open" and not any(
            "w" in str(getattr(m, "value", ""))
            for m in node.args[1:2] + [k.value for k in node.keywords if k.arg == "mode"]
        ):
            given += node.args[:1]
        for value in given:
            name = getattr(value, "value", None)
            if isinstance(name, str) and CONFIG.match(name):
                found.add(name)
    return {n for n in found if not n.startswith(("/opt/ml/", "/tmp/"))}
