"""`load_any`, `load_checkpoint`: from what a user names (a file, a folder, a hub id, nothing) to a `Checkpoint`.

Owns: where a model's parts lie in each kind of source, and the errors that say which file is wrong and what to do.
Knows nothing of model code. transformers is never imported here (it takes seconds), and torch only for float weights;
a checkpoint needs a `tokenizer.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from .....lang.errors import ModelLoadError, OptionError, suggest
from .checkpoint import Checkpoint, Described, Foreign, end_ids
from .config import ModelConfig, Unsupported
from .converted import load_converted
from .fields import Fields, brief, check_sizes, contained, first_line, read_json, read_text
from .shapes import check_tensors
from .store import DEFAULT_MODEL, MODELS, pulled_path

if TYPE_CHECKING:
    from .dummy import DummyTensors
    from .shards import ShardedTensors

__all__ = ["LOAD_FORMATS", "Checkpoint", "Foreign", "load_any", "load_checkpoint"]

LOAD_FORMATS = ("auto", "safetensors", "gguf", "dummy")
_EXPERTS = "mixtures of experts are not supported by the code of the Llama family"
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


def load_checkpoint(model_path: str | Path | None, load_format: str, cache: Path) -> Checkpoint:
    """Load a description, weights and tokenizer of a model of the family.

    `model_path`: a `.gguf` file, a folder with `config.json`, a name of `MODELS`, a hub id (`org/name`), or None for
    the embedded default model. `load_format`: "auto" takes what is there; "dummy" makes random weights for any
    `config.json`. `cache` is the folder for stored models and for converted GGUF files (see `converted`).

    Raises `OptionError` for an unknown `load_format`, `Unsupported` for a model that is not of the family,
    `ModelLoadError` for everything else.
    """
    path, is_gguf = _source(model_path, load_format, cache)
    if is_gguf:
        return load_converted(path, cache)
    file = _config_file(path)
    config = ModelConfig.from_hf(read_json(file), str(file))
    if config.num_experts:
        raise Unsupported(f"{file}: {_EXPERTS}")
    return _load_family(file, config, dummy=load_format == "dummy")


def load_any(model_path: str | Path | None, load_format: str, cache: Path) -> Checkpoint | Foreign:
    """Load any model: what `load_checkpoint` loads, or a `Foreign`, which transformers runs.

    Foreign are another family's models, and those whose context is longer than their sliding window.
    """
    path, is_gguf = _source(model_path, load_format, cache)
    if is_gguf:
        return load_converted(path, cache)
    file, dummy = _config_file(path), load_format == "dummy"
    raw = read_json(file)
    try:
        config = ModelConfig.from_hf(raw, str(file))
    except Unsupported as error:
        return _load_foreign(file, raw, str(error), dummy)
    if config.num_experts:
        return _load_foreign(file, raw, f"{file}: {_EXPERTS}", dummy)
    if config.limited_by_window:
        reason = f"{file}: it attends through a sliding window of {config.sliding_window} tokens"
        return _load_foreign(file, raw, reason, dummy)
    return _load_family(file, config, dummy)


def _source(model_path: str | Path | None, load_format: str, cache: Path) -> tuple[Path, bool]:
    """Find what to load: a folder (for dummy weights, any `config.json` too) or a GGUF file; and whether it is GGUF."""
    if load_format not in LOAD_FORMATS:
        known = ", ".join(LOAD_FORMATS)
        raise OptionError(f"load_format {load_format!r} does not exist{suggest(load_format, LOAD_FORMATS)}: {known}")
    path = (
        pulled_path(DEFAULT_MODEL, cache) if model_path is None else _local(model_path, load_format != "dummy", cache)
    )
    if load_format == "dummy":
        if path.suffix == ".gguf":
            raise ModelLoadError(
                f"{path} is a GGUF file: load_format='dummy' takes a config.json, or a folder that holds one"
            )
        return path, False
    if path.is_file() and (load_format == "gguf" or path.suffix == ".gguf"):
        if load_format == "safetensors":
            raise ModelLoadError(f"{path} is a GGUF file, not a safetensors folder: use load_format='auto' or 'gguf'")
        return path, True
    if load_format == "gguf":
        return _only_gguf(path), True
    if path.is_file():
        raise ModelLoadError(f"{path}: pass the folder that holds config.json, or a .gguf file")
    if load_format == "auto" and not (path / "config.json").is_file() and any(path.glob("*.gguf")):
        return _only_gguf(path), True
    return path, False


def _config_file(path: Path) -> Path:
    return path if path.is_file() else path / "config.json"


def _local(model_path: str | Path, weights: bool, cache: Path) -> Path:
    """The file or folder itself, a model of the package index, or a hub id's snapshot."""
    text = str(model_path)
    try:
        path = Path(model_path).expanduser()
    except RuntimeError as error:  # ~ of a user whom nobody knows
        raise ModelLoadError(f"{text}: {error}") from None
    if not text.strip():
        raise ModelLoadError("model_path is empty; leave it out for the default model, or name a folder or a file")
    if path.exists():
        return path
    if text in MODELS:
        return pulled_path(text, cache)
    if isinstance(model_path, Path) or text.count("/") != 1 or text[0] in "./~" or path.suffix in (".gguf", ".json"):
        raise ModelLoadError(f"{text}: no such file or folder{suggest(text, MODELS)}")
    import huggingface_hub

    patterns = _HUB_FILES if weights else [p for p in _HUB_FILES if p != "*.safetensors"]
    try:
        return Path(huggingface_hub.snapshot_download(text, allow_patterns=patterns))
    except Exception as error:  # connection, permission, unknown repository: the hub's own types vary by version
        raise ModelLoadError(
            f"{text!r} is no local path, and it could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {first_line(error)}). Check the name and the connection, set HF_TOKEN for a "
            "gated model, or download it elsewhere and pass its folder"
        ) from error


def _only_gguf(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ModelLoadError(f"{path}: expected one .gguf file in the folder, found {found}; pass the file itself")
    return files[0]


def _load_family(file: Path, config: ModelConfig, dummy: bool) -> Checkpoint:
    tensors: DummyTensors | ShardedTensors
    if dummy:
        from .dummy import DummyTensors

        tensors = DummyTensors(config)
    else:
        tensors = _read_safetensors(file.parent)
        if "lm_head.weight" not in tensors and not config.tie_word_embeddings:
            raise ModelLoadError(
                f"{file.parent}: the tensor 'lm_head.weight' is missing and config.json does not tie it to the "
                "embeddings"
            )
        check_tensors(config, {name: (p.shape, p.dtype) for name, p in tensors.places.items()}, str(file.parent))
    described = _describe(file, config.vocab_size, config.eos_ids, config.bos_id, dummy)
    return Checkpoint(config=config, tensors=tensors, **vars(described))


def _load_foreign(file: Path, raw: Mapping[str, Any], reason: str, dummy: bool) -> Foreign:
    check_sizes(raw, str(file))
    text = Fields(raw, str(file)).mapping("text_config")
    fields = Fields({**text, **raw}, str(file))  # a model that also sees describes its text apart
    vocab_size, eos_ids = fields.whole("vocab_size", 0, low=0), fields.tokens("eos_token_id")
    described = _describe(file, vocab_size, eos_ids, fields.token("bos_token_id"), dummy)
    path = file.parent if file.name == "config.json" else file
    return Foreign(path=path, reason=reason, dummy=dummy, **vars(described))


def _describe(file: Path, vocab_size: int, eos_ids: tuple[int, ...], bos_id: int | None, dummy: bool) -> Described:
    """Read what the files beside a `config.json` say of text; a byte tokenizer for dummy weights without any."""
    folder = file.parent
    if dummy and not (folder / "tokenizer.json").is_file():
        from .dummy import byte_tokenizer

        tokenizer = byte_tokenizer(vocab_size, str(file))
        return Described(
            name=str(file), tokenizer=tokenizer, chat_template=None, bos_id=None, eos_ids=end_ids(tokenizer, ()),
            add_bos=False,
        )  # fmt: skip
    tokenizer = _read_tokenizer(folder)
    settings = read_json(folder / "tokenizer_config.json", optional=True)
    generation = read_json(folder / "generation_config.json", optional=True)
    said = Fields(settings, str(folder / "tokenizer_config.json"))
    ends = Fields(generation, str(folder / "generation_config.json")).tokens("eos_token_id")
    named_bos = _token_id(tokenizer, said, "bos_token")
    if named_bos is None and "bos_token" not in settings:
        named_bos = bos_id
    named_eos = _token_id(tokenizer, said, "eos_token")
    # What the tokenizer itself puts before text is what the model was trained with; settings only repeat it.
    file = folder / "tokenizer.json"
    begins = contained(lambda: tokenizer.encode("a", add_special_tokens=True).ids[:1], file, "cannot encode a text")
    return Described(
        name=str(folder),
        tokenizer=tokenizer,
        chat_template=_chat_template(folder, settings),
        bos_id=named_bos,
        eos_ids=end_ids(tokenizer, [*eos_ids, *ends, *(() if named_eos is None else (named_eos,))]),
        add_bos=named_bos is not None and (begins == [named_bos] or settings.get("add_bos_token") is True),
    )


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_text(file)
    said = Fields(settings, str(folder / "tokenizer_config.json"))
    if not isinstance(settings.get("chat_template"), list):
        return said.text("chat_template")
    for entry in said.items("chat_template", dict, "templates"):  # several named ones: this is the one for plain chat
        named = Fields(entry, f"{said.name}: chat_template")
        if named.text("name") == "default":
            return named.text("template")
    return None


def _token_id(tokenizer: Tokenizer, said: Fields, key: str) -> int | None:
    if isinstance(said.raw.get(key), dict):
        said, key = Fields(said.raw[key], f"{said.name}: {key}"), "content"
    content = said.text(key)
    return None if content is None else tokenizer.token_to_id(content)


def _read_tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelLoadError(
            f"{file}: no such file. Write it once with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    read_text(file)  # an endless file, and one that is not UTF-8, do not get as far as the package
    tokenizer: Tokenizer = contained(lambda: Tokenizer.from_file(str(file)), file, "cannot be read as a tokenizer")
    contained(tokenizer.no_truncation, file, "cannot be read as a tokenizer")
    contained(tokenizer.no_padding, file, "cannot be read as a tokenizer")
    return tokenizer


def _read_safetensors(folder: Path) -> ShardedTensors:
    """All tensors of the folder, sharded or not."""
    from .shards import ShardedTensors, read_header

    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if not index.is_file():
        if not single.is_file():
            raise ModelLoadError(f"{single}: no such file (nor an index of shards); only safetensors weights are read")
        return ShardedTensors(read_header(single))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ModelLoadError(f"{index}: has no 'weight_map'; download the file again")
    headers = {}
    for shard in sorted(set(weight_map.values())):
        # A name must not lead out of the folder. A file of it may be a link: the hub's own cache is made of links.
        if shard in ("", "..") or shard != Path(shard).name or len(shard) > 255 or {"/", "\\", "\0"} & set(shard):
            raise ModelLoadError(
                f"{index}: 'weight_map' names the shard {brief(shard)}; it must be a file of the same folder"
            )
        if not (folder / shard).is_file():
            raise ModelLoadError(f"{folder / shard}: this shard is missing; download the model again")
        headers[shard] = read_header(folder / shard)
    places = {name: place for header in headers.values() for name, place in header.items()}
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise ModelLoadError(f"{folder / shard}: lacks the tensor {name!r} that {index.name} says it has")
        places[name] = headers[shard][name]
    return ShardedTensors(places)
