#!/usr/bin/env python3
"""Takes the lists that the planner and the stand-ins go by from the real packages, without importing them:

    python3 -m pip download --no-deps --only-binary :all: -d wheels vllm==0.33.0 transformers==5.23.0
    python3 tests/engines/take.py wheels

writes the flags of `vllm serve` and `transformers serve` beside this file, and the architectures that each serves beside the
planner. Read from the syntax trees, since importing vLLM takes a GPU's worth of dependencies.
"""
import ast
import pathlib
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
PLANNER = HERE.parents[1] / "operator" / "src" / "plan"


def trees(wheels, package, wanted):
    """The wheel's version and the parsed files whose path `wanted` admits."""
    (wheel,) = pathlib.Path(wheels).glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py") and wanted(name)]
        return wheel.name.split("-")[1], {name: ast.parse(archive.read(name)) for name in names}


def kebab(name):
    return "--" + name.replace("_", "-")


def kind_of(annotation):
    """switch, optional (a value may follow), list (values follow), or value: what argparse makes of a field's type."""
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    top = {part.id for part in union(annotation) if isinstance(part, ast.Name)}
    if "bool" in top:
        return "optional" if "str" in top else "switch"
    outer = {part.value.id for part in union(annotation) if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name)}
    return "list" if outer & {"list", "tuple", "set"} and not names & {"dict"} else "value"


def union(annotation):
    if isinstance(annotation, ast.BinOp):
        return union(annotation.left) + union(annotation.right)
    return [annotation]


def fields(files):
    """Class name -> field name -> annotation, base classes included."""
    classes = {node.name: node for tree in files.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def of(name):
        node = classes.get(name)
        if node is None:
            return {}
        found = {}
        for base in node.bases:
            if isinstance(base, ast.Name):
                found.update(of(base.id))
        found.update({s.target.id: s.annotation for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)})
        return found

    return {name: of(name) for name in classes}


def vllm_flags(wheels):
    def wanted(name):
        return name.startswith("vllm/config/") or name in ("vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py")

    version, files = trees(wheels, "vllm", wanted)
    classes = fields(files)
    flags = {}

    def add(names, kind):
        for name in names:
            flags[name] = kind
            if kind == "switch" and name.startswith("--"):
                flags["--no-" + name[2:]] = kind

    frontend = classes["FrontendArgs"]
    for name, annotation in frontend.items():
        add([kebab(name)], kind_of(annotation))
    # Special cases that cli_args.py makes by hand: JSON in one value, or one value each time.
    for name in ("allowed_origins", "allowed_methods", "allowed_headers", "middleware"):
        add([kebab(name)], "value")
    for tree in files.values():
        # `model_kwargs = get_kwargs(ModelConfig)`, and the fields that a group's arguments are made from.
        groups = {
            node.targets[0].id: node.value.args[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name) and node.value.func.id == "get_kwargs" and isinstance(node.value.args[0], ast.Name)
        }
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"):
                continue
            names = [a.value for a in call.args if isinstance(a, ast.Constant) and str(a.value).startswith("-")]
            kind, words = "value", {}
            for word in call.keywords:
                if word.arg is not None:
                    words[word.arg] = word.value
                elif isinstance(word.value, ast.Subscript) and isinstance(word.value.value, ast.Name):
                    annotation = classes.get(groups.get(word.value.value.id), {}).get(ast.literal_eval(word.value.slice))
                    kind = kind_of(annotation) if annotation is not None else "value"
            action = words.get("action")
            text = ast.unparse(action) if action is not None else ""
            if "store_true" in text:
                for name in names:
                    flags[name] = "switch"
                continue
            if "BooleanOptionalAction" in text:
                kind = "switch"
            if "nargs" in words:
                kind = {"+": "list", "*": "list", "?": "optional"}.get(ast.literal_eval(words["nargs"]), kind)
            add(names, kind)
    # A name may be one value or several.
    flags["--served-model-name"] = "list"
    write(HERE / "vllm.flags", f"vllm serve {version}", sorted(f"{name} {kind}" for name, kind in flags.items()))


def transformers_flags(wheels):
    version, files = trees(wheels, "transformers", lambda name: name == "transformers/cli/serve.py")
    (tree,) = files.values()
    (init,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    flags = {}
    for argument in init.args.args[1:]:
        inner, meta = argument.annotation.slice.elts
        if "Argument" in ast.unparse(meta.func):
            continue
        boolean = any(isinstance(part, ast.Name) and part.id == "bool" for part in union(inner))
        flags[kebab(argument.arg)] = "switch" if boolean else "value"
        if boolean:
            flags["--no-" + kebab(argument.arg)[2:]] = "switch"
    write(HERE / "transformers.flags", f"transformers serve {version}", sorted(f"{name} {kind}" for name, kind in flags.items()))


def tables(tree, wanted):
    """Top-level dictionaries by name, as pairs of syntax nodes; OrderedDict([(k, v), ...]) alike."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id in wanted:
            value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            pairs = zip(value.keys, value.values) if isinstance(value, ast.Dict) else [tuple(pair.elts) for pair in value.elts]
            yield target.id, list(pairs)


def strings(node):
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def architectures(wheels):
    version, files = trees(wheels, "vllm", lambda name: name == "vllm/model_executor/models/registry.py")
    (tree,) = files.values()
    kinds = {"_TEXT_GENERATION_MODELS": "text", "_TRANSFORMERS_SUPPORTED_MODELS": "text", "_MULTIMODAL_MODELS": "multimodal", "_EMBEDDING_MODELS": "embedding"}
    found = {}
    for table, pairs in tables(tree, kinds):
        for key, _ in pairs:
            if key is not None:
                found.setdefault(key.value, kinds[table])
    write(PLANNER / "vllm.architectures", f"vllm {version}", sorted(f"{name} {kind}" for name, kind in found.items()))

    version, files = trees(wheels, "transformers", lambda name: name == "transformers/models/auto/modeling_auto.py")
    (tree,) = files.values()
    kinds = {"MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "text", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "multimodal"}
    found = {}
    for table, pairs in tables(tree, kinds):
        for _, value in pairs:
            for name in strings(value):
                found.setdefault(name, kinds[table])
    write(PLANNER / "transformers.architectures", f"transformers {version}", sorted(f"{name} {kind}" for name, kind in found.items()))


def write(path, what, lines):
    path.write_text(f"# {what}; taken by tests/engines/take.py\n" + "\n".join(lines) + "\n")
    print(path.name, len(lines))


if __name__ == "__main__":
    vllm_flags(sys.argv[1])
    transformers_flags(sys.argv[1])
    architectures(sys.argv[1])
