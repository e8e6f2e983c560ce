"""Parameters as scikit-learn reads, sets and clones them; scikit-learn itself is the judge."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import sys

import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError as SklearnNotFittedError
from sklearn.model_selection import ParameterGrid
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.backbones.base import MF
from cnsdiff.base.errors import ConfigError, NotFittedError
from cnsdiff.samplers.base import Sampler, SamplerConfig

TRAINING = {"epochs": 1, "batch_size": 64}


class Own(Sampler):
    """One of the user's own."""

    class Config(SamplerConfig):
        extra: int = 1


ESTIMATORS = {
    "default": {},
    "named": {"backbone": "mf", "sampler": "dns", "seed": 3},
    "settings": {
        "sampler": "popularity",
        "training": {"epochs": 2, "lr": 0.1},
        "sampler_options": {"exponent": 0.5},
        "objective": {"contrastive": {"weight": 0.1}},
        "evaluation": {"ks": (5, 20)},
    },
    "preset": {"preset": "authors", "device": "cpu"},
    "classes": {"backbone": MF, "sampler": Own, "sampler_options": {"extra": 4}},
    "wrong, which only fit tells": {"sampler": "randon", "training": {"epoch": [1]}},
}


@pytest.fixture(scope="module")
def world():
    return ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()


@pytest.fixture(scope="module")
def fitted(world):
    return Recommender("mf", "random", training=TRAINING).fit(world)


# -- clone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ESTIMATORS.values(), ids=ESTIMATORS)
@pytest.mark.parametrize("copied", [clone, Recommender.clone])
def test_a_clone_has_the_same_parameters_and_shares_none(options, copied):
    model = Recommender(**options)
    made = copied(model)
    assert type(made) is Recommender
    assert made is not model
    assert made.get_params(deep=False) == model.get_params(deep=False)
    for name, value in model.get_params(deep=False).items():
        assert not isinstance(value, dict) or made.get_params(deep=False)[name] is not value
    for name in ("backbone", "sampler"):
        assert getattr(made, name) is getattr(model, name)


def test_what_scikit_learn_demands_of_any_estimator():
    """Its own way of cloning, without ours: each argument is kept as the object it is."""
    from sklearn.base import _clone_parametrized

    model = Recommender(**ESTIMATORS["settings"])
    assert _clone_parametrized(model).get_params() == model.get_params()


def test_a_clone_of_a_fitted_one_is_not_fitted_and_trains_to_the_same(fitted, world):
    for made in (clone(fitted), fitted.clone()):
        with pytest.raises(NotFittedError):
            made.recommend(world.users)
        assert not hasattr(made, "model_")
    assert fitted.recommend(world.users[:1]).height == 20
    assert torch.equal(clone(fitted).fit(world).user_embeddings_, fitted.user_embeddings_)


def test_a_loaded_one_is_cloned_with_all_its_settings(fitted, world, tmp_path):
    loaded = Recommender.load(fitted.save(tmp_path / "run"))
    assert loaded.get_params()["sampler"] == "random"
    made = clone(loaded)
    assert made.resolve() == fitted.config_
    assert torch.equal(made.fit(world).user_embeddings_, fitted.user_embeddings_)


def test_fitted_or_not(fitted):
    check_is_fitted(fitted)
    for check in (check_is_fitted, lambda model: check_is_fitted(model, "model_")):
        with pytest.raises(SklearnNotFittedError, match="This Recommender instance is not fitted"):
            check(Recommender())
    assert get_tags(fitted).requires_fit
    assert get_tags(Recommender()).estimator_type is None


# -- parameters --------------------------------------------------------------------------------


def test_shallow_parameters_are_the_arguments_as_given():
    training = {"epochs": 2}
    params = Recommender("mf", training=training, seed=1).get_params(deep=False)
    assert params.pop("training") is training
    given = {name: value for name, value in params.items() if value is not None}
    assert given == {"backbone": "mf", "preset": "default", "seed": 1}
    named = inspect.signature(Recommender).parameters.keys() - {"unknown"}
    assert params.keys() | {"training"} == named


def test_an_unknown_argument_is_told_at_once():
    with pytest.raises(ConfigError, match=r"^Recommender: unknown parameter 'sed' \(did you mean"):
        Recommender(sed=1)
    with pytest.raises(ConfigError, match=r"unknown parameter 'x'; known: backbone, sampler, pres"):
        Recommender(x=1)
    with pytest.raises(ConfigError, match=r"^a.yaml: unknown key 'trainin' \(did you mean 'trai"):
        Recommender.from_config({"trainin": {}}, source="a.yaml")
    with pytest.raises(ConfigError, match=r"^a.yaml: seed has no value; give it one, or leave it"):
        Recommender.from_config({"seed": None}, source="a.yaml")


def test_deep_parameters_are_all_settings_resolved():
    model = Recommender(sampler="popularity", training={"epochs": 2})
    params, config = model.get_params(), model.resolve()
    assert params["training__epochs"] == 2
    assert params["training__lr"] == config.training.lr
    assert params["sampler_options__exponent"] == config.sampler.exponent
    assert params["backbone_options__dim"] == config.backbone.dim
    assert params["objective__contrastive__weight"] == config.objective.contrastive.weight
    assert params["evaluation__ks"] == (10, 20)
    assert params["seed"] == 0
    assert params["sampler"] == "popularity"
    assert "sampler_options__name" not in params
    # Those of the preset show where it is in use.
    assert params["backbone_options__init"] == "xavier"
    assert Recommender().get_params()["backbone_options__init"] == "spectral"
    with pytest.raises(ConfigError, match="'randon'"):
        Recommender(sampler="randon").get_params()


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if "wrong" not in name])
def test_parameters_set_as_they_were_got_change_nothing(name):
    model = Recommender(**ESTIMATORS[name])
    config, params = model.resolve(), model.get_params()
    assert model.set_params(**params) is model
    assert model.resolve() == config
    assert {name: model.get_params()[name] for name in params if "__" in name} == {
        name: value for name, value in params.items() if "__" in name
    }
    assert Recommender().set_params(**params).resolve() == config


def test_setting_one_keeps_the_others_and_the_callers_dictionaries():
    training = {"epochs": 2, "lr": 0.1}
    model = Recommender(sampler="random", training=training)
    model.set_params(training__epochs=7, objective__contrastive__weight=0.5, seed=9)
    config = model.resolve()
    assert (config.training.epochs, config.training.lr, config.seed) == (7, 0.1, 9)
    assert config.objective.contrastive.weight == 0.5
    assert training == {"epochs": 2, "lr": 0.1}
    model.set_params(training={"epochs": 3}, training__patience=2)
    config = model.resolve()
    assert (config.training.epochs, config.training.patience) == (3, 2)
    assert config.training.lr == Recommender(sampler="random").resolve().training.lr
    assert model.set_params() is model


def test_settings_of_a_component_are_those_of_the_one_set():
    model = Recommender(sampler="random")
    with pytest.raises(ConfigError, match="no parameter 'sampler_options__exponent'"):
        model.set_params(sampler_options__exponent=0.5)
    model.set_params(sampler_options__exponent=0.5, sampler="popularity")
    assert model.resolve().sampler.exponent == 0.5
    model.set_params(sampler=Own, sampler_options={"extra": 2}, backbone="mf")
    assert model.resolve().sampler.extra == 2
    assert model.resolve().backbone.name == "mf"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"training__epocs": 3},
            r"Recommender has no parameter 'training__epocs' \(did you mean 'training__epochs'\?\)",
        ),
        ({"epochs": 3}, "no parameter 'epochs'"),
        ({"sed": 3}, r"'sed' \(did you mean 'seed'\?\)"),
        ({"backbone__dim": 3}, r"'backbone__dim' \(did you mean 'backbone_options__dim'\?\)"),
        ({"training__epochs__more": 3}, "no parameter 'training__epochs__more'"),
        ({"seed__x": 3}, "no parameter 'seed__x'"),
        ({"sampler": "randon"}, "did you mean 'random'"),
        ({"preset": "autors"}, "did you mean 'authors'"),
    ],
)
def test_an_unknown_name_sets_nothing(params, words):
    model = Recommender(seed=1)
    before = model.get_params()
    with pytest.raises(ConfigError, match=words):
        model.set_params(training__lr=0.5, **params)
    assert model.get_params() == before


def test_a_wrong_value_is_for_fit_to_tell(world):
    model = Recommender().set_params(training__epochs=-1)
    with pytest.raises(ConfigError, match=r"training\.epochs: .*\(got -1\)"):
        model.fit(world)
    assert model.set_params(training__epochs=2).resolve().training.epochs == 2
    mended = Recommender(sampler="randon", training="none").set_params(sampler="random")
    assert mended.set_params(training__epochs=2).resolve().training.epochs == 2


def test_a_search_by_hand(world):
    base = Recommender("mf", "random", training=TRAINING)
    grid = ParameterGrid({"training__lr": [0.001, 0.05], "backbone_options__dim": [8]})
    found = {}
    for params in grid:
        model = clone(base).set_params(**params).fit(world)
        found[params["training__lr"]] = model.history_[0]["train"]["loss"]
        assert model.user_embeddings_.shape == (world.n_users, 8)
    assert found[0.001] != found[0.05]
    assert base.get_params(deep=False)["training"] == TRAINING


# -- storing and showing -----------------------------------------------------------------------


def test_pickled_it_is_the_same(fitted, world):
    model = Recommender("mf", Own, training=TRAINING)
    assert pickle.loads(pickle.dumps(model)).get_params() == model.get_params()
    again = pickle.loads(pickle.dumps(fitted))
    assert again.recommend(world.users, 5).equals(fitted.recommend(world.users, 5))


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "Recommender()"),
        ({"training": {"epochs": 120}, "seed": 0}, "Recommender()"),
        (
            {"sampler": "popularity", "training": {"epochs": 2, "patience": 10}},
            "Recommender(sampler='popularity', training={'epochs': 2})",
        ),
        (
            {"backbone": MF, "sampler": Own, "sampler_options": {"extra": 4}},
            "Recommender(backbone=MF, sampler=Own, sampler_options={'extra': 4})",
        ),
        (
            {"sampler_options": {"name": "dns", "n_negatives": 1}},
            "Recommender(sampler='dns')",
        ),
        ({"preset": "paper", "seed": 4}, "Recommender(preset='paper', seed=4)"),
        ({"sampler": "randon", "seed": [1]}, "Recommender(sampler='randon', seed=[1])"),
    ],
)
def test_what_is_shown_is_what_is_not_the_default(options, shown):
    model = Recommender(**options)
    assert repr(model) == shown
    if options.get("sampler") != "randon":
        made = eval(shown, {"Recommender": Recommender, "MF": MF, "Own": Own})
        assert made.resolve() == model.resolve()


def test_a_loaded_one_shows_what_was_set(fitted, tmp_path):
    loaded = Recommender.load(fitted.save(tmp_path / "run"))
    assert repr(loaded) == repr(fitted)
    assert repr(fitted) == (
        "Recommender(backbone='mf', sampler='random', training={'epochs': 1, 'batch_size': 64})"
    )


def test_scikit_learn_is_not_needed(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.find_spec("cnsdiff.recommender.parameters")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Estimator(seed=1).clone().set_params(training__epochs=2)
    assert repr(model) == "Estimator(training={'epochs': 2}, seed=1)"
    assert model.get_params()["training__epochs"] == 2
    with pytest.raises(ImportError):
        model.__sklearn_tags__()
