"""Run by each of several processes: train every variant of a JSON file on a dataset.

Arguments: the dataset directory, the JSON file (options of ``Recommender`` by name), and the
directory whose subdirectories become the runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cnsdiff import Recommender, load_dataset

if __name__ == "__main__":
    dataset, variants, out = map(Path, sys.argv[1:])
    for name, options in json.loads(variants.read_text()).items():
        Recommender(**options).fit(load_dataset(dataset), run=out / name)
