"""The data sets known by name. Adding one means adding an entry here and a reader.

A checksum stands here only where the publisher gives it. Where there is none, the SHA-256 found
when the data set was fetched is kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cnsdiff.base.errors import InputError, did_you_mean
from cnsdiff.catalogue import readers
from cnsdiff.catalogue.download import Checksum
from cnsdiff.catalogue.pypi import Wheel
from cnsdiff.data.interactions import Source


@dataclass(frozen=True)
class Layout:
    """One way in which the files of a data set are named, and how to read them."""

    required: tuple[str, ...]
    """Base names of the files that must be there."""
    read: Callable[[Path], Source]
    """From a folder with these files to a :class:`~cnsdiff.data.interactions.Source`."""
    optional: tuple[str, ...] = ()
    """Base names of files to take along where they are."""


@dataclass(frozen=True)
class Entry:
    """A published data set."""

    name: str
    """Its name here, and its folder."""
    what: str
    """One line: who did what with which."""
    shift: str
    """The distribution shift it can show."""
    size: int
    """Bytes to fetch, roughly."""
    licence: str
    terms: str
    """In a word, and in a sentence."""
    home_page: str
    citation: str
    """Where it is described, and the work to cite."""
    columns: tuple[str, ...]
    """Columns of an interaction."""
    layouts: tuple[Layout, ...]
    """Names its files may have, the preferred first."""
    threshold: float = 4.0
    """The rating from which an interaction usually counts as positive."""
    addresses: tuple[str, ...] = ()
    checksum: Checksum | None = None
    """Where it is, and what the file must have; no address where a login or a request is
    needed."""
    ask: bool = False
    """Whether its terms must be accepted before it is fetched."""
    wheel: Wheel | None = None
    """The package that carries it too, if there is one."""
    unpacked: int = 1 << 30
    """Bytes that its files may have at most; an archive with more is not what it claims to be."""


_RATED = ("user", "item", "rating")
_TIMED = (*_RATED, "timestamp")
_GROUPLENS = (
    "Research use; acknowledge it, do not redistribute it without permission, no commercial use "
    "without permission."
)
_MOVIELENS = (
    "F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), "
    "2015"
)
_COAT_FEATURES = (
    *("user_features.ascii", "user_features_map.txt"),
    *("item_features.ascii", "item_features_map.txt", "README.txt"),
)

_ML_100K = Entry(
    name="ml-100k",
    what="100,000 film ratings by 943 users, with age, gender, occupation, genres",
    shift="temporal, user group",
    size=4_900_000,
    licence="research",
    terms=_GROUPLENS,
    home_page="https://grouplens.org/datasets/movielens/100k/",
    citation=_MOVIELENS,
    columns=_TIMED,
    layouts=(
        Layout(("u.data", "u.user", "u.item"), readers.ml_100k_grouplens, ("README", "u.genre")),
        Layout(("ml-100k.inter", "ml-100k.user", "ml-100k.item"), readers.ml_100k_recbole),
    ),
    addresses=("https://files.grouplens.org/datasets/movielens/ml-100k.zip",),
    checksum=Checksum("md5", "0e33842e24a9c977be4e0107933c0723"),
    wheel=Wheel(
        "recbole",
        "1.2.1",
        "recbole-1.2.1-py3-none-any.whl",
        Checksum("sha256", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"),
    ),
)

_ML_1M = Entry(
    name="ml-1m",
    what="1,000,209 film ratings by 6,040 users, with age, gender, occupation, genres",
    shift="temporal, user group",
    size=5_900_000,
    licence="research",
    terms=_GROUPLENS,
    home_page="https://grouplens.org/datasets/movielens/1m/",
    citation=_MOVIELENS,
    columns=_TIMED,
    layouts=(Layout(("ratings.dat", "users.dat", "movies.dat"), readers.ml_1m, ("README",)),),
    addresses=("https://files.grouplens.org/datasets/movielens/ml-1m.zip",),
    checksum=Checksum("md5", "c4d9eecfca2ab87c1945afe126590906"),
)

_KUAIREC = Entry(
    name="kuairec",
    what="12.5 million views of short videos, and 1,411 users who saw nearly all of 3,327",
    shift="exposure, temporal",
    size=432_000_000,
    licence="CC BY-SA 4.0",
    terms="Creative Commons Attribution-ShareAlike 4.0.",
    home_page="https://kuairec.com",
    citation="C. Gao et al., KuaiRec: A Fully-Observed Dataset, CIKM 2022",
    columns=("user", "item", "rating (watch ratio)", "timestamp"),
    threshold=2.0,
    layouts=(
        Layout(
            ("big_matrix.csv", "small_matrix.csv"),
            readers.kuairec,
            ("user_features.csv", "item_categories.csv", "LICENSE", "README.md"),
        ),
    ),
    addresses=("https://zenodo.org/records/18164998/files/KuaiRec.zip",),
    checksum=Checksum("md5", "261550d472c48eff4990fb13c0e5bcf7"),
    unpacked=1 << 32,
)

_COAT = Entry(
    name="coat",
    what="290 users rate 24 coats they chose and 16 shown at random, with features",
    shift="exposure",
    size=600_000,
    licence="not stated",
    terms="The authors state no licence; they ask to cite the paper.",
    home_page="https://www.cs.cornell.edu/~schnabts/mnar/",
    citation="T. Schnabel et al., Recommendations as Treatments, ICML 2016",
    columns=_RATED,
    layouts=(
        Layout(("train.ascii", "test.ascii"), readers.coat_matrices, _COAT_FEATURES),
        Layout(("user.txt", "random.txt"), readers.coat_triples, _COAT_FEATURES),
    ),
    addresses=("https://www.cs.cornell.edu/~schnabts/mnar/coat.zip",),
)

_YAHOO_R3 = Entry(
    name="yahoo-r3",
    what="311,704 ratings of 1,000 songs users chose, and 54,000 of songs shown at random",
    shift="exposure",
    size=1_500_000,
    licence="on request",
    terms="Yahoo Webscope agreement: academic, non-commercial research; do not redistribute.",
    home_page="https://webscope.sandbox.yahoo.com/catalog.php?datatype=r",
    citation="B. M. Marlin and R. S. Zemel, Collaborative Prediction and Ranking with Non-Random "
    "Missing Data, RecSys 2009",
    columns=_RATED,
    layouts=(
        Layout(
            (
                "ydata-ymusic-rating-study-v1_0-train.txt",
                "ydata-ymusic-rating-study-v1_0-test.txt",
            ),
            readers.yahoo_r3_webscope,
            ("README.txt",),
        ),
        Layout(("user.txt", "random.txt"), readers.triples),
    ),
    ask=True,
)

_FOOD = Entry(
    name="food",
    what="1.1 million ratings of 231,637 recipes on Food.com, 2000 to 2018",
    shift="temporal",
    size=280_000_000,
    licence="Kaggle login",
    terms="As its Kaggle page says; a Kaggle account is needed.",
    home_page="https://www.kaggle.com/datasets/shuyangli94/food-com-recipes-and-user-interactions",
    citation="B. P. Majumder et al., Generating Personalized Recipes from Historical User "
    "Preferences, EMNLP 2019",
    columns=_TIMED,
    layouts=(Layout(("RAW_interactions.csv",), readers.food, ("RAW_recipes.csv",)),),
    ask=True,
    unpacked=1 << 31,
)

_YELP = Entry(
    name="yelp",
    what="7 million reviews of businesses, with their city and categories",
    shift="popularity, temporal",
    size=4_300_000_000,
    licence="on request",
    terms="Yelp Dataset Terms of Use: academic, non-commercial; do not redistribute.",
    home_page="https://business.yelp.com/data/resources/open-dataset/",
    citation="Yelp Open Dataset",
    columns=_TIMED,
    layouts=(
        Layout(
            ("yelp_academic_dataset_review.json",),
            readers.yelp,
            ("yelp_academic_dataset_business.json",),
        ),
    ),
    ask=True,
    unpacked=12 << 30,
)

#: Categories of Amazon Reviews 2023, in the publisher's order.
AMAZON_CATEGORIES = (
    *("All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive"),
    *("Baby_Products", "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl"),
    *("Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music"),
    *("Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food", "Handmade_Products"),
    *("Health_and_Household", "Health_and_Personal_Care", "Home_and_Kitchen"),
    *("Industrial_and_Scientific", "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV"),
    *("Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies"),
    *("Software", "Sports_and_Outdoors", "Subscription_Boxes", "Tools_and_Home_Improvement"),
    *("Toys_and_Games", "Video_Games", "Unknown"),
)
_AMAZON = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/0core/rating_only"


def _amazon(category: str) -> Entry:
    return Entry(
        name=f"amazon-2023/{category}",
        what=f"ratings of products on Amazon, 1996 to 2023: {category.replace('_', ' ')}",
        shift="temporal, popularity",
        size=0,  # differs from a few MB to a GB, and is not published with the addresses
        licence="not stated",
        terms="The authors state no licence; they ask to cite the paper.",
        home_page="https://amazon-reviews-2023.github.io/",
        citation="Y. Hou et al., Bridging Language and Items for Retrieval and Recommendation, "
        "arXiv 2403.03952",
        columns=_TIMED,
        layouts=tuple(
            Layout((f"{category}{ending}",), readers.amazon_2023) for ending in (".csv.gz", ".csv")
        ),
        addresses=(f"{_AMAZON}/{category}.csv.gz",),
        unpacked=8 << 30,
    )


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *(_ML_100K, _ML_1M, _KUAIREC, _COAT, _YAHOO_R3, _FOOD, _YELP),
        *map(_amazon, AMAZON_CATEGORIES),
    )
}


def find(name: str) -> Entry:
    """The entry of that name; :class:`InputError` names the nearest if there is none."""
    if name in ENTRIES:
        return ENTRIES[name]
    raise InputError(
        f"unknown data set {name!r}{did_you_mean(name, ENTRIES)}; cnsdiff data list shows them all"
    )
