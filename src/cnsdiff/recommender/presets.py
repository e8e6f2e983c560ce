"""Named configurations of published models; ``default`` is ours.

A preset is a partial configuration: keys given by the user win over it. The published models have
no dial.
"""

from __future__ import annotations

#: What a configuration starts from unless a preset is named.
DEFAULT = "default"

#: Hyper-parameters the paper and the authors' code share.
_PUBLISHED_SAMPLER: dict[str, object] = {
    "name": "cnsdiff",
    "steps": 20,
    "schedule": "linear-var",
    "noise_scale": 0.1,
    "noise_min": 1e-4,
    "noise_max": 0.02,
    "standardise": False,
    "hidden": 64,
    "dropout": 0.5,
    "normalise_input": True,
    "condition_dropout": 0.0,
    "environment": "none",
    "causal": "step_kl",
    "causal_weight": 0.1,
    "diffusion_weight": 1e-6,
    "weighting": "snr",
    "starts": [10, 14, 18],
    "calls": None,
    "stochastic": False,
    "cap_margin": None,
}
_PUBLISHED: dict[str, dict[str, object]] = {
    "backbone": {"name": "lightgcn", "dim": 64},
    "objective": {
        "loss": "bpr",
        "l2": 1e-4,
        "contrastive": {"weight": 0.3, "temperature": 2.0, "noise": 0.01, "negatives": None},
    },
    "training": {"epochs": 120, "batch_size": 2048, "lr": 0.01, "dial": "off"},
}

#: By name: the settings of each section.
PRESETS: dict[str, dict[str, dict[str, object]]] = {
    # Ours: a softmax over negatives as the environment shows them, on cosine scores, begun at the
    # spectral embedding, and read at a dial that validation chooses. docs/results.md has what
    # each part is worth.
    "default": {
        "backbone": {"name": "lightgcn", "init": "spectral"},
        "sampler": {"name": "exposure"},
        "objective": {
            "loss": "softmax",
            "score": "cosine",
            "temperature": 0.2,
            "repulsion": 0.3,
            "l2": 1e-4,
        },
    },
    # The method as the paper describes it: the denoiser is trained and sees the user, chains
    # begin at their starting step, generation runs without dropout.
    "paper": {
        **_PUBLISHED,
        "sampler": {
            **_PUBLISHED_SAMPLER,
            "train_denoiser": True,
            "condition_user": True,
            "condition_dropout": 0.1,
        },
    },
    # Their published code, with its departures (docs/method.md).
    "authors": {
        **_PUBLISHED,
        "objective": {**_PUBLISHED["objective"], "l2_form": "authors"},
        "sampler": {
            **_PUBLISHED_SAMPLER,
            "train_denoiser": False,
            "dropout_in_generation": True,
            "condition_user": False,
            "detach_positive": False,
            "full_chain": True,
        },
    },
    # LightGCN as usually trained, with random negatives.
    "bpr-lightgcn": {
        "backbone": {"name": "lightgcn"},
        "sampler": {"name": "random"},
        "objective": {"loss": "bpr"},
        "training": {"dial": "off"},
    },
    # The same with positives weighted by inverse propensity, the square root of popularity
    # (Saito et al., WSDM 2020).
    "ips-lightgcn": {
        "backbone": {"name": "lightgcn"},
        "sampler": {"name": "random"},
        "objective": {"loss": "bpr", "propensity": {"exponent": 0.5}},
        "training": {"dial": "off"},
    },
    # The same with popularity-deconfounded BPR (Zhang et al., SIGIR 2021), at the exponent that
    # the authors' repository calls good with and without injected popularity.
    "pda-lightgcn": {
        "backbone": {"name": "lightgcn"},
        "sampler": {"name": "random"},
        "objective": {"loss": "bpr", "popularity_exponent": 0.1},
        "training": {"dial": "off"},
    },
    # LightGCN with in-batch softmax on cosine scores.
    "ssm-lightgcn": {
        "backbone": {"name": "lightgcn"},
        "sampler": {"name": "random"},
        "objective": {
            "loss": "softmax",
            "score": "cosine",
            "temperature": 0.2,
            "negatives": "in-batch",
            "l2": 1e-4,
        },
        # The items of a batch are each other's negatives: its size is part of the method.
        "training": {"batch_size": 2048, "lr": 0.005, "dial": "off"},
    },
}
