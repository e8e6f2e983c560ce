"""The configuration: one validated tree, the same from YAML, ``--set`` and Python."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    Field,
    PositiveInt,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from cnsdiff.backbones import BACKBONES, BackboneConfig
from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.registry import Registry
from cnsdiff.base.settings import BEYOND_WHOLE, Settings, first_problem, shown
from cnsdiff.base.storage import first_line
from cnsdiff.content.model import ContentConfig
from cnsdiff.objectives.objective import ObjectiveConfig
from cnsdiff.objectives.rivals import OPTIONS, RivalConfig
from cnsdiff.recommender.presets import DEFAULT, PRESETS
from cnsdiff.references import CLOSED_FORM, Reference, ReferenceConfig
from cnsdiff.samplers import SAMPLERS, SamplerConfig
from cnsdiff.training.config import TrainingConfig

#: Sections and their settings, as YAML holds them.
Tree = dict[str, Any]
#: Sections that a model in closed form does not have.
_GRADIENT = ("sampler", "objective")


class EvaluationConfig(Settings):
    """Evaluation of rankings."""

    ks: tuple[PositiveInt, ...] = Field((10, 20), min_length=1, description="cut-offs K")


class StackConfig(Settings):
    """A second model, to be added to the first as validation likes it."""

    preset: str | None = Field(
        None, description="its configuration, as 'bpr-lightgcn'; None: there is no second model"
    )
    set: Tree = Field(
        {},
        description="settings of the second model on top of it; seed, device, what chooses and, "
        "unless set, how long it trains are those of the first",
    )


class Config(Settings):
    """Everything that decides a run's result, apart from the data.

    Of a model in closed form (:data:`cnsdiff.references.CLOSED_FORM`), sampler and objective decide
    nothing, nor do the settings of ``training`` on epochs and steps.
    """

    backbone: SerializeAsAny[BackboneConfig | ReferenceConfig]
    sampler: SerializeAsAny[SamplerConfig]
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    stack: StackConfig = StackConfig()
    content: ContentConfig = ContentConfig()
    seed: int = Field(0, ge=0, lt=BEYOND_WHOLE)
    device: str = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads; None leaves PyTorch's choice"
    )

    @property
    def closed_form(self) -> bool:
        """Whether the model is a solution in closed form, and not trained by gradient."""
        return isinstance(self.backbone, ReferenceConfig)

    @property
    def title(self) -> str:
        """What is trained: ``"lightgcn + exposure"``, ``"ease"``."""
        name = self.backbone.name
        return name if self.closed_form else f"{name} + {self.sampler.name}"

    @property
    def method(self) -> str:
        """What tables call it beside others: its sampler, or the model in closed form."""
        return self.backbone.name if self.closed_form else self.sampler.name

    @property
    def dialled(self) -> bool:
        """Whether the dial has a meaning: not where scores are the environment's own."""
        reference = CLOSED_FORM.get(self.backbone.name) if self.closed_form else None
        return reference is None or reference.dialled

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> Tree:
        tree: Tree = handler(self)
        unused = _GRADIENT if self.closed_form else ()
        return {section: value for section, value in tree.items() if section not in unused}

    @model_validator(mode="after")
    def _check(self) -> Config:
        objective = self.objective
        if self.closed_form and self.content.prior != "none":
            raise ValueError(
                f"content.prior needs vectors of items, and {self.backbone.name} has none that are "
                "trained; leave it out, or take a backbone"
            )
        uses_sampler = objective.negatives.endswith("sampler")
        if objective.loss == "bpr" and objective.negatives != "sampler":
            raise ValueError(
                "objective.negatives must be 'sampler' with objective.loss 'bpr'; "
                "set objective.loss to 'softmax' for shared negatives"
            )
        if objective.loss == "bpr" and objective.log_q:
            raise ValueError(
                "objective.log_q corrects a softmax; set objective.loss to 'softmax' or log_q to 0"
            )
        if objective.popularity_exponent and objective.loss != "bpr":
            raise ValueError(
                "objective.popularity_exponent deconfounds BPR; set objective.loss to 'bpr' or "
                "popularity_exponent to 0"
            )
        if objective.popularity_exponent and objective.score != "inner":
            raise ValueError(
                "objective.popularity_exponent needs inner products; set objective.score to "
                "'inner' or popularity_exponent to 0"
            )
        for loss, names in OPTIONS.items():
            for name in names if loss != objective.loss else ():
                if getattr(objective.rival, name) != getattr(RivalConfig(), name):
                    raise ValueError(
                        f"objective.rival.{name} is of objective.loss {loss!r}; take that loss, or "
                        f"leave {name} out"
                    )
        if objective.loss in OPTIONS:
            if objective.score != "cosine":
                raise ValueError(
                    f"objective.loss {objective.loss!r} is made for cosines; set objective.score "
                    "to 'cosine'"
                )
            if objective.log_q:
                raise ValueError(
                    "objective.log_q corrects a softmax; set objective.loss to 'softmax' or log_q "
                    "to 0"
                )
        by_row = objective.screen or objective.loss in OPTIONS
        if by_row and objective.negatives.endswith("+sampler"):
            what = "objective.screen" if objective.screen else f"objective.loss {objective.loss!r}"
            raise ValueError(
                f"{what} takes negatives of one kind; set objective.negatives to "
                f"'sampler' or {objective.negatives.removesuffix('+sampler')!r}"
            )
        if objective.screen and objective.loss == "bpr":
            raise ValueError(
                "objective.screen leaves out negatives of a softmax; set objective.loss to "
                "'softmax', or screen to 0"
            )
        if not uses_sampler and self.sampler.name != "random":
            raise ValueError(
                f"objective.negatives={objective.negatives!r} never uses the sampler "
                f"{self.sampler.name!r}; set objective.negatives to "
                f"'{objective.negatives}+sampler', or sampler.name to 'random'"
            )
        training = self.training
        on_test = training.select_on == "test_ood"
        computed = {str(k) for k in self.evaluation.ks}
        for metric in (m.partition(" ")[0] for m in training.selection_metrics):
            if metric.rpartition("@")[2] not in computed:
                raise ValueError(
                    f"the best epoch is picked by {metric!r}, which is not computed; add its "
                    f"cut-off to evaluation.ks {list(self.evaluation.ks)}, or change "
                    + ("training.select_on" if on_test else "training.select_metric")
                )
        return self


def resolve_config(
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str = "default",
    source: str = "the configuration",
    backbones: Mapping[str, type[Any]] | None = None,
    samplers: Mapping[str, type[Any]] | None = None,
) -> Config:
    """The validated configuration from a preset and what the user sets on top.

    Parameters
    ----------
    overrides
        A nested mapping of sections, as in the YAML file.
    preset
        Name of the partial configuration underneath. ``"default"`` is one of its own sampler; of
        another, the fields' own defaults are underneath.
    source
        Where the overrides come from, for messages.
    backbones, samplers
        Classes given as objects, by name, beside the registered ones.

    Raises
    ------
    ConfigError
        On an unknown key (naming the nearest), a bad value or an unknown component.
    """
    tree = _merged(overrides or {}, preset, source, backbones)
    for section, settings in _components(tree, source, backbones, samplers).items():
        tree[section] = _validate(settings, tree[section], source, section)
    config: Config = _validate(Config, tree, source, "")
    second_config(config, source)  # refuse what is wrong before anything is trained
    return config


#: What says how long a training is.
_LENGTH = ("epochs", "batch_size", "patience", "patience_steps", "validate_every")


def second_config(config: Config, source: str = "the configuration") -> Config | None:
    """The configuration of the second model of a stack; ``None`` if there is no stack.

    Raises
    ------
    ConfigError
        A key or value of it is wrong.
    """
    stack, place = config.stack, f"{source}: stack"
    if stack.preset is None:
        if stack.set:
            raise ConfigError(f"{place}: set has settings but preset no name; give 'bpr-lightgcn'")
        return None
    try:
        overrides = nested(stack.set)
    except ValueError as error:
        raise ConfigError(f"{place}.set: {error}") from error
    for key in ("stack", "content", "seed", "device", "precision", "threads", "evaluation"):
        if key in overrides:
            raise ConfigError(f"{place}.set: {key} is that of the first model; leave it out")
    # As long as the first, unless that is part of the preset.
    own = PRESETS.get(stack.preset, {}).get("training", {})
    length = {name: getattr(config.training, name) for name in _LENGTH if name not in own}
    overrides = merge({"training": length}, overrides)
    second = resolve_config(overrides, preset=stack.preset, source=place)
    if config.closed_form or second.closed_form:
        raise ConfigError(
            f"{place}: a model in closed form is not stacked; stack two that are trained, or leave "
            "out stack.preset"
        )
    chooses = {
        name: value
        for name, value in config.training
        if name.startswith(("select_", "fhn_")) or name in ("dial", "horizon", "refit", "shard")
    }
    chooses["fhn_every"] = None  # the first tells of its negatives
    training = second.training.model_copy(update=chooses)
    shared = {
        name: getattr(config, name)
        for name in ("seed", "device", "precision", "threads", "evaluation")
    }
    return second.model_copy(update={**shared, "training": training})


def component_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str = "default",
    source: str = "the configuration",
    backbones: Mapping[str, type[Any]] | None = None,
    samplers: Mapping[str, type[Any]] | None = None,
) -> dict[str, type[Settings]]:
    """The classes of the sections ``backbone`` and ``sampler`` that a configuration has.

    Parameters and errors as of :func:`resolve_config`, but no value is validated.
    """
    tree = _merged(overrides or {}, preset, source, backbones)
    return _components(tree, source, backbones, samplers)


def is_closed_form(name: object) -> bool:
    """Whether a backbone of this name is a model in closed form; a plugin's of that name is not."""
    return name in CLOSED_FORM and name not in BACKBONES.names()


def _merged(
    overrides: Mapping[str, Any],
    preset: str,
    source: str,
    backbones: Mapping[str, type[Any]] | None,
) -> Tree:
    """The preset with ``overrides`` on top."""
    if preset not in PRESETS:
        raise ConfigError(
            f"no preset is called {shown(preset)}{did_you_mean(preset, PRESETS)}; "
            f"available: {', '.join(PRESETS)}"
        )
    base = PRESETS[preset]
    for section in ("backbone", "sampler"):
        if not isinstance(overrides.get(section) or {}, Mapping):
            raise ConfigError(
                f"{source}: {section} must be a section with keys, not "
                f"{shown(overrides[section])}; a {section} is chosen by {section}.name"
            )
    backbone = (overrides.get("backbone") or {}).get("name")
    if is_closed_form(backbone) and backbone not in (backbones or {}):
        if preset != DEFAULT:
            raise ConfigError(
                f"preset {preset!r} is a configuration of a model trained by gradient, and "
                f"{backbone!r} is solved in closed form; drop one of the two"
            )
        for section in _GRADIENT:
            if overrides.get(section):
                raise ConfigError(
                    f"{source}: the model {backbone!r} is solved in closed form, without "
                    f"{'an' if section == 'objective' else 'a'} {section}; drop {section}, or "
                    "take another backbone"
                )
        return merge({}, overrides)
    chosen = (overrides.get("sampler") or {}).get("name")
    needed = base.get("sampler", {}).get("name")
    if preset == DEFAULT and chosen not in (None, needed):
        # Not a conflict, as with the other presets: nobody asked for it by name.
        base, needed = {}, None
    if chosen is not None and needed is not None and chosen != needed:
        raise ConfigError(
            f"preset {preset!r} is a configuration of the sampler {needed!r}, not of {chosen!r}; "
            "drop one of the two"
        )
    return merge(base, overrides)


def _components(
    tree: Tree,
    source: str,
    backbones: Mapping[str, type[Any]] | None,
    samplers: Mapping[str, type[Any]] | None,
) -> dict[str, type[Settings]]:
    """Settings of the chosen components; ``tree`` names the components afterwards."""
    kinds: tuple[tuple[str, str, Any, Registry[Any], type[Settings]], ...] = (
        ("backbone", "lightgcn", backbones, BACKBONES, BackboneConfig),
        ("sampler", "exposure", samplers, SAMPLERS, SamplerConfig),
    )
    classes = {}
    for section, default, own, registry, config_class in kinds:
        settings = tree.get(section) or {}
        name = settings.get("name", default)
        if not isinstance(name, str):
            raise ConfigError(f"{source}: {section}.name must be a name, not {shown(name)}")
        component = (own or {}).get(name)
        if component is not None and issubclass(component, Reference):
            raise ConfigError(
                f"{source}: {name} is no backbone of your own; give a model in closed form by its "
                f"name: {', '.join(CLOSED_FORM)}"
            )
        if component is None and section == "backbone" and is_closed_form(name):
            component = CLOSED_FORM[name]
        try:
            beside = CLOSED_FORM if section == "backbone" else ()
            component = component or registry.find(name, beside)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
        tree[section] = {**settings, "name": name}
        classes[section] = getattr(component, "Config", config_class)
    return classes


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """``base`` with ``over`` on top, section by section; neither is changed."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _nest(key: str, value: Any) -> Tree:
    for part in reversed(key.split(".")):
        value = {part: value}
    result: Tree = value
    return result


def nested(settings: Mapping[str, Any]) -> Tree:
    """``{"training.lr": 0.01}`` as ``{"training": {"lr": 0.01}}``; nested mappings may mix in."""
    tree: Tree = {}
    for key, value in settings.items():
        _join(tree, _nest(str(key), nested(value) if isinstance(value, Mapping) else value))
    return tree


def _join(tree: Tree, other: Tree, place: str = "") -> None:
    """Put ``other`` into ``tree``; they may share sections, but no value."""
    for key, value in other.items():
        if key not in tree:
            tree[key] = value
        elif isinstance(tree[key], dict) and isinstance(value, dict):
            _join(tree[key], value, f"{place}{key}.")
        else:
            raise ValueError(f"{place + key!r} is set twice")


def read_config_file(path: Path) -> Tree:
    """The mapping in a YAML file; :class:`ConfigError` names the line that is not YAML."""
    try:
        tree = read_yaml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file; check the path") from error
    except NotYaml as error:
        line = "" if error.line is None else f", line {error.line}"
        raise ConfigError(f"{path}{line}: {error.problem}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read as text ({reason}); check the file") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold sections with keys, as 'training:' and 'epochs: 5'")
    return tree


class NotYaml(ValueError):
    """A fault in YAML, and its line (from 1) if that is known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem = problem
        self.line = line


#: A file of more bytes is no configuration; PyYAML would take minutes to find that out.
_MOST_BYTES = 2_000_000
#: Values that a file may stand for once its aliases are written out.
_MOST_VALUES = 100_000
_MOST_DIGITS = 400
#: What settings are made of.
_TAGS = {
    f"tag:yaml.org,2002:{kind}": kind
    for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
}


def read_yaml(path: Path) -> Any:
    """The value in a YAML file; see :func:`parse_yaml`.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not in UTF-8, or :class:`NotYaml`.
    """
    with Path(path).open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise NotYaml(f"is larger than {_MOST_BYTES // 10**6} MB, so it holds no settings")
    return parse_yaml(content.decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """The value that YAML stands for: mappings with text as keys, lists, text and numbers.

    Raises
    ------
    NotYaml
        It is not valid, or holds what settings have no use for: a key twice or one that is not
        text, a tag, aliases that make it huge.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise NotYaml("is nested too deeply; write it with fewer levels") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise NotYaml("not valid YAML; correct the line", line) from error
    except (ValueError, OverflowError) as error:  # of int(), float() and chr()
        if isinstance(error, NotYaml):
            raise
        raise NotYaml(f"has a value that cannot be read ({first_line(error)})") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """YAML in which `2020-01-01` is the text that it is, not a date to be printed otherwise."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own name)
        first: [(tag, pattern) for tag, pattern in known if tag in _TAGS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Number of values a node stands for, given known ``sizes``; refuse what is odd."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise _problem(node, "an alias stands for what it is a part of; write it out")
        return sizes[id(node)]
    if node.tag not in _TAGS:
        raise _problem(node, f"the tag {shown(node.tag)} means nothing in settings; remove it")
    sizes[id(node)] = 0
    total = 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        total += sum(_check(key, sizes) + _check(value, sizes) for key, value in node.value)
    else:
        total += sum(_check(part, sizes) for part in node.value)
    if total > _MOST_VALUES:
        raise _problem(node, f"stands for over {_MOST_VALUES:,} values; settings are fewer")
    sizes[id(node)] = total
    return total


def _check_scalar(node: yaml.ScalarNode) -> None:
    if _TAGS[node.tag] == "int" and len(node.value) > _MOST_DIGITS:
        raise _problem(node, f"has a number of over {_MOST_DIGITS} digits; correct it")
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        raise _problem(node, "has an escape that stands for no character; correct it") from error


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        # `<<` merges a mapping that the file may override on purpose.
        if _TAGS.get(key.tag) == "merge":
            continue
        if _TAGS.get(key.tag) != "str":
            given = shown(key.value) if isinstance(key, yaml.ScalarNode) else "of several values"
            raise _problem(key, f"the key {given} is not text; quote it")
        if key.value in seen:
            raise _problem(key, f"the key {shown(key.value)} is there twice; drop one")
        seen.add(key.value)


def _problem(node: yaml.Node, what: str) -> NotYaml:
    return NotYaml(what, node.start_mark.line + 1)


def _validate(model: type[Any], tree: Mapping[str, Any], source: str, prefix: str) -> Any:
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        problem = first_problem(error)
        place = ".".join([part for part in (prefix, *map(str, problem.keys)) if part])
        if problem.unknown:
            known = _known_keys(model, problem.keys[:-1])
            hint = did_you_mean(str(problem.keys[-1]), known)
            hint = hint or f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{source}: unknown key {shown(place)}{hint}") from error
        where = f"{source}: {place}: " if place else f"{source}: "
        given = (
            "" if isinstance(problem.given, (dict, Settings)) else f" (got {shown(problem.given)})"
        )
        raise ConfigError(f"{where}{problem.message}{given}") from error


def _known_keys(model: type[Any], path: Iterable[Any]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation
        model = annotation if isinstance(annotation, type) else model
    return list(model.model_fields)
