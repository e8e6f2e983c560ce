"""One configuration from presets, YAML, ``--set`` and Python; mistakes get named."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, ValidationError

import cnsdiff.benchmark.grid
import cnsdiff.shifts
import cnsdiff.simulate  # noqa: F401 (with the shifts and the grid, for their settings)
from cnsdiff.backbones import BACKBONES
from cnsdiff.base.errors import ConfigError
from cnsdiff.base.settings import Settings
from cnsdiff.cli.parsing import parse_assignments
from cnsdiff.objectives.objective import ObjectiveConfig
from cnsdiff.recommender.config import (
    Config,
    merge,
    parse_yaml,
    read_config_file,
    resolve_config,
)
from cnsdiff.recommender.presets import DEFAULT, PRESETS
from cnsdiff.samplers import SAMPLERS, Sampler, SamplerConfig
from cnsdiff.samplers.cnsdiff import CNSDiffConfig, CNSDiffSampler
from cnsdiff.samplers.static import RandomSampler


def complaint(overrides: Mapping[Any, Any], **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_config(overrides, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- resolving ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_to_what_it_says(name: str) -> None:
    resolved = resolve_config(preset=name).model_dump(mode="json")

    def holds(part: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
        return all(
            holds(value, whole[key]) if isinstance(value, Mapping) else whole[key] == value
            for key, value in part.items()
        )

    assert holds(PRESETS[name], resolved)


@pytest.mark.parametrize("name", PRESETS)
def test_a_dumped_configuration_resolves_to_itself(name: str, tmp_path: Path) -> None:
    config = resolve_config({"seed": 7, "training": {"epochs": 3}}, preset=name)
    assert resolve_config(config.model_dump()) == config
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert resolve_config(read_config_file(path)) == config


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_so_does_one_of_any_sampler_without_a_preset(name: str) -> None:
    config = resolve_config({"sampler": {"name": name}, "objective": {"l2": 0.5}})
    assert resolve_config(config.model_dump(mode="json")) == config


def test_components_get_their_own_settings() -> None:
    config = resolve_config({"sampler": {"name": "cnsdiff", "starts": [3]}})
    assert isinstance(config.sampler, CNSDiffConfig)
    assert config.sampler.starts == (3,)
    assert config.model_dump()["sampler"]["starts"] == (3,)


def parts(config: Config) -> dict[str, Any]:
    """What the default preset decides."""
    return {
        "backbone": (config.backbone.name, config.backbone.init),
        "sampler": config.sampler.name,
        "objective": config.objective,
        "dial": config.training.dial,
    }


OURS = {
    "backbone": ("lightgcn", "spectral"),
    "sampler": "exposure",
    "objective": ObjectiveConfig(
        loss="softmax", score="cosine", temperature=0.2, repulsion=0.3, l2=1e-4
    ),
    "dial": "auto",
}
PLAIN = {
    "backbone": ("lightgcn", "xavier"),
    "objective": ObjectiveConfig(),
    "dial": "auto",
}


@pytest.mark.parametrize("sampler", [{}, None, {"name": "exposure"}, {"exponent": 0.5}])
def test_the_default_is_exposure_with_all_that_goes_with_it(sampler: Any) -> None:
    assert parts(resolve_config({"sampler": sampler})) == OURS
    assert resolve_config({"sampler": sampler}) == resolve_config(preset=DEFAULT)


@pytest.mark.parametrize("name", sorted({*SAMPLERS.names()} - {"exposure"}))
def test_another_sampler_without_a_preset_has_the_plain_settings(name: str) -> None:
    config = resolve_config({"sampler": {"name": name}})
    assert parts(config) == {**PLAIN, "sampler": name}
    assert config == resolve_config({"sampler": {"name": name}}, preset=DEFAULT)
    assert config.sampler == getattr(SAMPLERS.find(name), "Config", SamplerConfig)(name=name)


def test_a_sampler_of_ones_own_without_a_preset_has_the_plain_settings() -> None:
    class Own(Sampler):
        pass

    own: dict[str, Any] = {"samplers": {"Own": Own}}
    config = resolve_config({"sampler": {"name": "Own", "n_negatives": 3}}, **own)
    assert parts(config) == {**PLAIN, "sampler": "Own"}
    assert config.sampler == SamplerConfig(name="Own", n_negatives=3)


@pytest.mark.parametrize("name", ["exposure", "dns"])
def test_what_is_set_wins_over_either(name: str) -> None:
    ours = name == "exposure"
    config = resolve_config(
        {
            "sampler": {"name": name},
            "backbone": {"name": "mf"},
            "objective": {"temperature": 0.7},
            "training": {"dial": "off"},
        }
    )
    under = OURS if ours else PLAIN
    assert parts(config) == {
        "backbone": ("mf", under["backbone"][1]),
        "sampler": name,
        "objective": under["objective"].model_copy(update={"temperature": 0.7}),
        "dial": "off",
    }


def test_the_users_keys_win_over_the_presets() -> None:
    config = resolve_config({"sampler": {"steps": 30}}, preset="paper")
    assert isinstance(config.sampler, CNSDiffConfig)
    assert config.sampler.steps == 30
    assert config.sampler.diffusion_weight == 1e-6


def test_resolving_leaves_preset_and_overrides_as_they_are() -> None:
    overrides = {"objective": {"contrastive": {"weight": 0.9}}}
    resolve_config(overrides, preset="paper")
    assert overrides == {"objective": {"contrastive": {"weight": 0.9}}}
    assert PRESETS["paper"]["objective"]["contrastive"]["weight"] == 0.3


def test_a_class_given_as_an_object_is_validated_by_its_own_config() -> None:
    class OwnConfig(SamplerConfig):
        strength: float = Field(1.0, gt=0)

    class Own(Sampler):
        Config = OwnConfig

    config = resolve_config({"sampler": {"name": "Own", "strength": 2}}, samplers={"Own": Own})
    assert config.sampler == OwnConfig(name="Own", strength=2.0)
    message = complaint({"sampler": {"name": "Own", "strenght": 2}}, samplers={"Own": Own})
    assert "'sampler.strenght' (did you mean 'strength'?)" in message


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        resolve_config().seed = 3


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"trainig": {}}, "unknown key 'trainig' (did you mean 'training'?)"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch' (did you mean 'epochs'?)"),
        (
            {"objective": {"contrastive": {"weigth": 1}}},
            "unknown key 'objective.contrastive.weigth' (did you mean 'weight'?)",
        ),
        (
            {"sampler": {"name": "cnsdiff", "start": [1]}},
            "unknown key 'sampler.start' (did you mean 'starts'?)",
        ),
        (
            {"sampler": {"exponant": 1}},
            "unknown key 'sampler.exponant' (did you mean 'exponent'?)",
        ),
        ({"backbone": {"layer": 3}}, "unknown key 'backbone.layer' (did you mean 'layers'?)"),
        ({"evaluation": {"zzz": 1}}, "unknown key 'evaluation.zzz'; known keys: ks"),
        (
            {"sampler": {"name": "cnsdif"}},
            "no sampler is called 'cnsdif' (did you mean 'cnsdiff'?)",
        ),
        ({"backbone": {"name": "lightgnn"}}, "(did you mean 'lightgcn'?)"),
        ({"backbone": {"name": "mf", "layers": 2}}, "unknown key 'backbone.layers'"),
    ],
)
def test_unknown_names_get_the_nearest(overrides: dict[str, Any], words: str) -> None:
    assert words in complaint(overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training": {"epochs": 0}}, "training.epochs: "),
        ({"training": {"lr": "fast"}}, "(got 'fast')"),
        ({"evaluation": {"ks": [5, "x"]}}, "evaluation.ks.1: "),
        ({"evaluation": {"ks": []}}, "evaluation.ks: "),
        ({"sampler": {"name": "cnsdiff", "starts": [30]}}, "sampler: starts must be"),
        ({"objective": {"loss": "bprr"}}, "objective.loss: "),
        ({"seed": -1}, "seed: "),
        ({"training": 5}, "training: "),
        ({"sampler": "random"}, "a section with keys, not 'random'; a sampler is chosen by"),
        ({"backbone": ["mf"]}, "backbone must be a section with keys"),
        ({"sampler": {"name": 5}}, "sampler.name must be a name, not 5"),
        ({"sampler": {"name": None}}, "sampler.name must be a name, not None"),
        ({1: 2}, "1: keys should be strings"),
        ({"sampler": {2: 3}}, "sampler.2: keys should be strings"),
    ],
)
def test_bad_values_name_their_place(overrides: dict[Any, Any], words: str) -> None:
    assert words in complaint(overrides)


def test_messages_begin_with_where_the_configuration_came_from() -> None:
    assert complaint({"x": 1}, source="my.yaml").startswith("my.yaml: ")


@pytest.mark.parametrize("name", ["authors", "paper", "bpr-lightgcn"])
def test_a_preset_of_another_sampler_is_a_conflict(name: str) -> None:
    other = "cnsdiff" if name == "bpr-lightgcn" else "random"
    message = complaint({"sampler": {"name": other}}, preset=name)
    assert f"preset {name!r}" in message
    assert f"not of {other!r}" in message


def test_naming_the_presets_own_sampler_is_no_conflict() -> None:
    named = resolve_config({"sampler": {"name": "cnsdiff"}}, preset="paper")
    assert named == resolve_config(preset="paper")


def test_an_unknown_preset_gets_the_nearest() -> None:
    assert "(did you mean 'authors'?)" in complaint({}, preset="author")


def test_bpr_with_shared_negatives_is_refused() -> None:
    message = complaint({"objective": {"negatives": "in-batch"}, "sampler": {"name": "random"}})
    assert "set objective.loss to 'softmax'" in message


def test_a_sampler_the_loss_never_calls_is_refused() -> None:
    message = complaint({"objective": {"loss": "softmax", "negatives": "in-batch"}})
    assert "never uses the sampler 'exposure'" in message
    assert "'in-batch+sampler'" in message


@pytest.mark.parametrize("metric", ["ndcg@5", "mrr@7", "map@100", "hitrate@1"])
def test_a_metric_to_select_on_must_be_computed(metric: str) -> None:
    message = complaint({"training": {"select_metric": metric}})
    assert f"{metric!r}, which is not computed" in message
    cutoff = int(metric.partition("@")[2])
    config = resolve_config(
        {"training": {"select_metric": metric}, "evaluation": {"ks": [10, cutoff]}}
    )
    assert config.training.select_metric == metric


def test_the_published_selection_needs_its_four_metrics() -> None:
    training = {"select_on": "test_ood", "dial": "off"}
    overrides = {"training": training, "evaluation": {"ks": [20, 50]}}
    assert "'recall@10', which is not computed" in complaint(overrides)
    resolve_config({"training": training})


def test_the_published_selection_chooses_no_dial() -> None:
    for training in ({}, {"dial": "auto"}):
        message = complaint({"training": {"select_on": "test_ood", **training}})
        assert "would choose one on the test set; set training.dial to 'off'" in message
    for preset_name in ("authors", "paper", "ssm-lightgcn"):
        resolve_config({"training": {"select_on": "test_ood"}}, preset=preset_name)


@pytest.mark.parametrize(
    ("text", "dial", "fixed"),
    [
        ("off", "off", 0.0),
        ("auto", "auto", None),
        ("-0.5", -0.5, -0.5),
        ("2", 2.0, 2.0),
        ("1e-1", 0.1, 0.1),
    ],
)
def test_the_dial_is_off_or_auto_or_a_number(text: str, dial: object, fixed: float | None) -> None:
    training = resolve_config(parse_assignments([f"training.dial={text}"])).training
    assert (training.dial, training.fixed_dial) == (dial, fixed)
    assert yaml.safe_load(yaml.safe_dump(training.model_dump(mode="json")))["dial"] == dial


@pytest.mark.parametrize("dial", ["on", "of", True, None, [], {}, float("nan"), float("inf"), ""])
def test_what_is_no_dial(dial: object) -> None:
    message = complaint({"training": {"dial": dial}})
    assert "training.dial: must be 'auto', 'off' or a finite number" in message


def test_the_published_models_have_no_dial() -> None:
    assert resolve_config().training.dial == "auto"
    for name in set(PRESETS) - {"default"}:
        assert resolve_config(preset=name).training.dial == "off"


@pytest.mark.parametrize("metric", ["mrr@20", "hitrate@10", "precision@20", "map@10"])
def test_an_anticipated_shift_weighs_recall_and_ndcg_only(metric: str) -> None:
    message = complaint({"training": {"select_on": "recency", "select_metric": metric}})
    assert "select_on='recency'" in message and f"not {metric!r}" in message
    for fine in ("recall@10", "ndcg@20"):
        training = {"select_on": "recency", "select_metric": fine}
        config = resolve_config({"training": training}).training
        assert config.selection_metrics == (f"{fine} (recency)",)
        assert (config.selection_split, config.anticipated) == ("valid", "recency")


def test_the_metric_of_an_anticipated_shift_must_be_computed() -> None:
    message = complaint({"training": {"select_on": "tempered", "select_metric": "ndcg@7"}})
    assert "'ndcg@7', which is not computed" in message


# -- --set and YAML ----------------------------------------------------------------------------


def test_assignments_nest_at_the_dots_and_read_values_as_yaml() -> None:
    assignments = [
        "training.epochs=5",
        "training.lr=1e-3",
        "sampler.name=cnsdiff",
        "sampler.starts=[3, 5]",
        "objective.contrastive.weight=0.5",
        "sampler.cap_margin=null",
        "sampler.full_chain=true",
        "device=cpu",
    ]
    config = resolve_config(parse_assignments(assignments))
    assert config == resolve_config(
        {
            "training": {"epochs": 5, "lr": 1e-3},
            "sampler": {
                "name": "cnsdiff",
                "starts": (3, 5),
                "cap_margin": None,
                "full_chain": True,
            },
            "objective": {"contrastive": {"weight": 0.5}},
            "device": "cpu",
        }
    )


def test_a_value_may_hold_an_equals_sign_and_be_empty() -> None:
    assert parse_assignments(["a.b=c=d", "e="]) == {"a": {"b": "c=d"}, "e": None}


def test_of_two_assignments_the_later_wins() -> None:
    assert parse_assignments(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize("bad", ["training.epochs", "=5", ""])
def test_an_assignment_without_key_or_value_says_how_to_write_it(bad: str) -> None:
    with pytest.raises(ConfigError, match="write it as key=value"):
        parse_assignments([bad])


def test_an_assignment_that_is_not_yaml_says_so() -> None:
    with pytest.raises(ConfigError, match=r"--set a=\[1: the value is not valid YAML"):
        parse_assignments(["a=[1"])


def test_a_yaml_file_is_read_as_sections(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("training:\n  epochs: 5\nsampler:\n  name: random\n")
    config = resolve_config(read_config_file(path))
    assert (config.training.epochs, config.sampler.name) == (5, "random")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# nothing\n")
    assert resolve_config(read_config_file(path)) == resolve_config()


def test_a_file_that_is_not_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("training:\n  epochs: 5\n  lr: [0.1\nseed: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 4: not valid YAML"):
        read_config_file(path)


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3\n", "c:\n  a: 1\n  a: 3\n", "x: {a: 1,\n\n a: 2}"]
)
def test_a_key_that_is_there_twice_names_the_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml, line 3: the key 'a' is there twice; drop one"):
        read_config_file(path)


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("base: &b {a: 1, c: 2}\nmine: {<<: *b, a: 3}\n")
    assert read_config_file(path)["mine"] == {"a": 3, "c": 2}


def test_a_merged_mapping_that_merges_another_has_no_key_twice() -> None:
    text = "a: &a {x: 1}\nouter: {b: &b {<<: *a, x: 2}}\nc: {<<: *b}\n"
    assert parse_yaml(text)["c"] == {"x": 2}


def test_a_date_is_the_text_that_is_there() -> None:
    assert parse_yaml("a: 2020-01-01\nb: !!str 5\n") == {"a": "2020-01-01", "b": "5"}


BOMB = "b0: &b0 x\n" + "".join(
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
ODD = {
    "deep": ("[" * 1000, "is nested too deeply"),
    "deep mappings": ("{a: " * 1000, "is nested too deeply"),
    "deep lists": ("- " * 1000, "is nested too deeply"),
    "bomb": (BOMB, "stands for over 100,000 values"),
    "itself": ("a: &a\n  b: *a\n", "line 1: an alias stands for what it is a part of"),
    "tag": ("a: !!python/name:os.system\n", "the tag 'tag:yaml.org,2002:python/name:os.system'"),
    "binary": ("a: !!binary aGk=\n", "the tag 'tag:yaml.org,2002:binary'"),
    "number as a key": ("1: 2\n", "line 1: the key '1' is not text; quote it"),
    "off as a key": ("a: 1\noff: 2\n", "line 2: the key 'off' is not text; quote it"),
    "list as a key": ("? [1, 2]\n: 3\n", "the key of several values is not text"),
    "digits": (f"a: {'9' * 5000}\n", "line 1: has a number of over 400 digits"),
    "no number": ("a: 0x_\n", "a value that cannot be read"),
    "no character": ('a: "\\U00110000"\n', "a value that cannot be read"),
    "half a pair": ('a: "\\ud800"\n', "an escape that stands for no character"),
    "NUL": ("a: \0\n", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "words"), ODD.values(), ids=ODD)
def test_yaml_that_settings_have_no_use_for_is_refused(text: str, words: str, tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        read_config_file(path)
    assert words in str(caught.value).replace(f"{path}, ", "")
    assert "\n" not in str(caught.value)


def test_a_value_that_settings_have_no_use_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--set a=!!binary.* not valid YAML \("):
        parse_assignments(["a=!!binary aGk="])


def test_a_file_that_is_too_large_for_settings_is_not_read(tmp_path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "1,2\n" * 600_000)
    with pytest.raises(ConfigError, match="is larger than 2 MB, so it holds no settings"):
        read_config_file(path)


def test_a_tab_in_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("training:\n\tepochs: 5\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 2: not valid YAML"):
        read_config_file(path)


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "hello\n"])
def test_a_file_without_sections_says_what_it_must_hold(content: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="must hold sections with keys"):
        read_config_file(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_config_file(tmp_path / "none.yaml")


def test_a_file_that_is_not_text_says_so(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_config_file(path)
    with pytest.raises(ConfigError, match="cannot be read as text"):
        read_config_file(tmp_path)


def test_yaml_set_and_python_give_the_same_object(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "sampler: {name: cnsdiff, starts: [4, 8], learning_rate: 1e-3}\n"
        "training: {patience: null}\n"
    )
    by_file = resolve_config(read_config_file(path))
    by_set = resolve_config(
        parse_assignments(
            [
                "sampler.name=cnsdiff",
                "sampler.starts=[4,8]",
                "sampler.learning_rate=.001",
                "training.patience=null",
            ]
        )
    )
    by_python = resolve_config(
        {
            "sampler": {"name": "cnsdiff", "starts": (4, 8), "learning_rate": 0.001},
            "training": {"patience": None},
        }
    )
    assert by_file == by_set == by_python


def test_merging_goes_section_by_section_and_copies() -> None:
    base, over = {"a": {"b": 1, "c": [2]}, "d": 4}, {"a": {"b": 9}, "e": {"f": 5}}
    merged = merge(base, over)
    assert merged == {"a": {"b": 9, "c": [2]}, "d": 4, "e": {"f": 5}}
    merged["a"]["c"].append(3)
    merged["e"]["f"] = 6
    assert base == {"a": {"b": 1, "c": [2]}, "d": 4}
    assert over == {"a": {"b": 9}, "e": {"f": 5}}


# -- the registry ------------------------------------------------------------------------------


def test_built_in_components_are_found_by_name() -> None:
    assert SAMPLERS.find("random") is RandomSampler
    assert SAMPLERS.find("cnsdiff") is CNSDiffSampler
    assert {"random", "cnsdiff"} <= set(SAMPLERS.names())
    assert {"mf", "lightgcn"} <= set(BACKBONES.names())


#: No field of any settings takes one of these.
NO_NUMBERS = (10**40, -(10**40), 10**400, math.nan, math.inf, -math.inf, 1e308, -1e308)
#: Counts that may be as large as you like: where it is never reached, nothing is done more often.
WITHOUT_LIMIT = {
    "EvaluationConfig.ks",  # beyond the catalogue a list is the whole of it
    "Grid.ks",
    "ItemKNNConfig.neighbours",  # beyond the catalogue they are all of it
    "TrainingConfig.patience",
    "TrainingConfig.patience_steps",
    "TrainingConfig.validate_every",  # the last epoch is validated in any case
    "TrainingConfig.fhn_every",
    "TrainingConfig.fhn_sample",  # no more than were drawn
    "Config.seed",
    "Search.seed",
    "WorldSettings.seed",
    "Grid.seeds",
    "CNSDiffConfig.starts",  # refused with steps, which it may not exceed
    "UserGroup.cluster",  # refused with the clusters that there are
    "UserGroup.value",  # data
    "Space.choices",  # refused by the setting that they are of
}


def fields_of_settings() -> list[tuple[type[Settings], str]]:
    """All of ours, in order; a scenario that is only a base has none of its own."""
    found, waiting = [], [Settings]
    while waiting:
        waiting += (here := waiting.pop()).__subclasses__()
        if here.__module__.startswith("cnsdiff.") and not inspect.isabstract(here):
            found += [(here, name) for name in here.model_fields]
    return found


def refused(model: type[Settings], name: str, value: object) -> bool:
    """Whether the field refuses a value, in a line of its own."""
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        return any(problem["loc"][:1] == (name,) for problem in error.errors())
    except ConfigError as error:  # a scenario's
        return f": {name}" in str(error) and "\n" not in str(error)
    return False


def test_no_setting_takes_a_number_that_no_machine_can_work_with() -> None:
    fields = fields_of_settings()
    assert len(fields) > 150
    for model, name in fields:
        for number in NO_NUMBERS:
            for value in (number, [number]):
                assert refused(model, name, value), (model, name, value)


def test_whole_numbers_end_where_work_or_memory_would_not() -> None:
    for model, name in fields_of_settings():
        kinds = str(model.model_fields[name].annotation)
        if "int" not in kinds or "float" in kinds:
            continue
        assert all(refused(model, name, v) for v in (2**63, [2**63])), (model, name)
        taken = [v for v in (10**12, [10**12]) if not refused(model, name, v)]
        assert bool(taken) == (f"{model.__name__}.{name}" in WITHOUT_LIMIT), (model, name)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("training.batch_size=100000000000000000000", "training.batch_size: input should be less"),
        ("training.batch_size=1.0e+20", "training.batch_size: "),
        ("threads=1000000", "threads: input should be less than or equal to 1024 (got 1000000)"),
        ("seed=1180591620717411303424", "seed: input should be less than 9223372036854775808"),
        ("seed=-1", "seed: input should be greater than or equal to 0"),
        ("backbone.dim=1000000000", "backbone.dim: input should be less than or equal to 65536"),
        ("training.lr=.inf", "training.lr: "),
        ("training.epochs=true", "training.epochs: must be a number, not true or false"),
        ("objective.log_q=false", "objective.log_q: must be a number, not true or false"),
        ("objective.log_q=.nan", "objective.log_q: must be a finite number"),
        ("objective.l2=1.0e+300", "objective.l2: must lie between -1e+30 and 1e+30"),
    ],
)
def test_absurd_numbers_are_told_with_their_bounds(assignment: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(parse_assignments([assignment]), source="--set")
    assert str(caught.value).startswith(f"--set: {sentence}")
