"""Roles of a table's columns, and whether the first line names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from cnsdiff.base.errors import DataError, did_you_mean
from cnsdiff.base.text import parameter
from cnsdiff.data.interactions import Problem, shortened

ROLES = ("user", "item", "rating", "timestamp", "period", "event")
#: Those a table can do without.
OPTIONAL = ("rating", "timestamp", "period", "event")

#: Names known for each role, compared without case, ``_``, ``-`` and spaces; the order is the
#: preference when a table has several of them.
ALIASES: dict[str, tuple[str, ...]] = {
    "user": (
        *("user", "userid", "uid", "useridx", "userindex", "u", "username", "member"),
        *("memberid", "customer", "customerid", "reviewer", "reviewerid", "visitorid", "usr"),
        *("usrid", "userkey", "userno", "usernumber", "visitor", "fullvisitorid", "client"),
        *("clientid", "account", "accountid", "buyer", "buyerid", "shopperid", "subscriberid"),
        *("consumerid", "viewerid", "listenerid", "readerid", "playerid", "learnerid", "guestid"),
        *("personid", "profileid", "steamid", "customerno", "customernumber", "anonymousid"),
        *("cookieid", "deviceid", "sessionid", "session"),
    ),
    "item": (
        *("item", "itemid", "iid", "itemidx", "itemindex", "i", "movie", "movieid", "product"),
        *("productid", "parentasin", "asin", "book", "bookid", "isbn", "track", "trackid"),
        *("song", "songid", "video", "videoid", "recipe", "recipeid", "business", "businessid"),
        *("news", "newsid", "article", "articleid", "anime", "animeid", "game", "gameid"),
        *("app", "appid", "poi", "poiid", "sku", "artist", "artistid", "skuid", "content"),
        *("contentid", "itemkey", "itemno", "itemnumber", "itemcode", "productcode", "productno"),
        *("productsku", "stockcode", "articleno", "ean", "gtin", "upc", "goodsid", "offerid"),
        *("listingid", "film", "filmid", "showid", "episodeid", "podcastid", "musicid", "titleid"),
        *("hotelid", "restaurantid", "venueid", "placeid", "courseid", "jobid", "postid", "adid"),
        *("paperid", "documentid", "docid", "pageid", "creativeid", "photoid", "imageid", "beerid"),
        *("wineid", "dishid", "propertyid"),
    ),
    "rating": (
        *("rating", "ratings", "score", "stars", "star", "overall", "label", "feedback", "r"),
        *("watchratio", "userrating", "itemrating", "ratingvalue", "ratingscore", "starrating"),
        *("reviewrating", "reviewscore", "reviewoverall", "overallrating", "userscore"),
    ),
    "timestamp": (
        *("timestamp", "timestamps", "unixtimestamp", "time", "ts", "datetime", "date"),
        *("unixreviewtime", "unixtime", "createdat", "t", "eventtime", "eventtimestamp"),
        *("eventdate", "eventdatetime", "timems", "timestampms", "epoch", "unixts", "createdtime"),
        *("creationtime", "createtime", "interactiontime", "ratingtime", "ratingdate", "ratedat"),
        *("reviewtime", "reviewdate", "clicktime", "viewtime", "visittime", "servertime"),
        *("orderdate", "orderedat", "purchasedate", "purchasetime", "purchasedat", "invoicedate"),
        *("clickedat", "viewedat", "playedat", "listenedat", "watchedat", "occurredat"),
    ),
    "period": ("environment", "env", "period"),
    "event": (
        *("eventtype", "event", "eventname", "eventkind", "action", "actiontype", "behavior"),
        *("behaviour", "behaviortype", "behaviourtype", "interactiontype", "interaction"),
        *("activity", "activitytype", "feedbacktype", "type"),
    ),
}

#: Column name that means "leave this optional column out although its name is known".
NO_COLUMN = "none"


@dataclass(frozen=True)
class RawTable:
    """A table as read, before its values are checked."""

    frame: pl.DataFrame
    """Columns under the file's own names (or ``"1", "2", …`` when there is no header)."""
    source: str
    """File or ``"DataFrame"``, for messages."""
    lines: pl.Series | None = None
    """1-based line of every row in the file; None where rows themselves are counted."""
    problems: tuple[Problem, ...] = ()
    """Why malformed lines have been left out already, each reason once."""
    names: tuple[str, ...] = ()
    """All columns of the file, where ``frame`` has those in use alone."""

    def where(self, row: int) -> str:
        """``"line 5"``, or ``"row 5"`` where there are no lines."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def place(self, row: int, column: str) -> str:
        """A value, for messages."""
        return f"{self.source}, {self.where(row)}, column {column!r}"


def plain_name(name: str) -> str:
    """``"User_ID:token"`` -> ``"userid"``: the form in which names are compared."""
    return re.sub(r"[\s_\-.]", "", name.split(":")[0]).lower()


def known_roles(names: Iterable[str]) -> dict[str, str]:
    """The column that plays each role, for those roles whose column can be told by its name."""
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(plain_name(name), name)
    columns = {
        role: next((plain[alias] for alias in ALIASES[role] if alias in plain), None)
        for role in ROLES
    }
    return {role: column for role, column in columns.items() if column is not None}


def assign_roles(
    names: Sequence[str],
    choices: Mapping[str, str | None],
    source: str,
    *,
    default: Mapping[str, str],
) -> dict[str, str]:
    """The column of each role: as ``asked`` by the caller, else as the ``default`` says.

    Raises :class:`DataError` where a column is not there, comes twice or has two roles, or where
    nobody knows which holds the users or the items.
    """
    listed = ", ".join(repr(name) for name in names)
    roles: dict[str, str] = {}
    for role in ROLES:
        wanted = choices.get(role)
        if wanted is None:
            continue
        if wanted in names:
            roles[role] = wanted
        elif wanted == NO_COLUMN and role in OPTIONAL:
            continue
        else:
            # RecBole's "user_id:token" may be asked for as plain "user_id".
            typed = [name for name in names if name.split(":")[0] == wanted]
            if not typed:
                raise DataError(
                    f"{source}: has no column {wanted!r}{did_you_mean(wanted, names)}; its columns "
                    f"are {listed}: name one of them with {parameter(role, 'NAME')}"
                )
            roles[role] = typed[0]
    taken = set(roles.values())
    for role, column in default.items():
        if role not in roles and choices.get(role) is None and column not in taken:
            roles[role] = column
    twice = next((column for column in roles.values() if list(names).count(column) > 1), None)
    if twice is not None:
        raise DataError(f"{source}: has two columns called {twice!r}; rename one of them")
    missing = [role for role in ("user", "item") if role not in roles]
    if missing:
        what = " and ".join(f"the {role}s" for role in missing)
        how = " and ".join(parameter(role, "NAME") for role in missing)
        raise DataError(
            f"{source}: no column is known to hold {what}; its columns are {listed}: name "
            f"{'one' if len(missing) == 1 else 'two'} of them with {how}, and those of ratings and "
            f"times, if any, with {parameter('rating', 'NAME')} and "
            f"{parameter('timestamp', 'NAME')}"
        )
    columns = list(roles.values())
    shared = next((column for column in columns if columns.count(column) > 1), None)
    if shared is not None:
        options = [parameter(role, "NAME") for role in roles if roles[role] == shared]
        raise DataError(
            f"{source}: column {shared!r} is asked for twice; give {' and '.join(options)} a "
            "column each"
        )
    return roles


_RECENT = 100_000_000  # seconds; 1973 as a time, and nobody's rating


def is_header(
    sample: Sequence[Sequence[str]], width: int, choices: Mapping[str, str | None], place: str
) -> bool:
    """Whether the first of some records names the columns, where nobody has said so.

    ``sample`` holds the fields of the first records, ``width`` is their usual number, ``place``
    where the first record is. Raises :class:`DataError` if it looks unlike the rest, but like no
    header that is known.
    """
    names = sample[0]
    if {"user", "item"} <= known_roles(names).keys():
        return True
    wanted = [column for column in choices.values() if column not in (None, NO_COLUMN)]
    if wanted:
        return not all(column.isdecimal() for column in wanted if column)
    # Words above columns of numbers or times are a header whose names we do not know.
    rows = [row for row in sample[1:] if len(row) == len(names)]
    if len(names) != width or not rows or not all(map(_is_word, names)):
        return False
    numeric = [
        all(is_number(row[at]) or is_time(row[at]) for row in rows) for at in range(len(names))
    ]
    if all(numeric[:2]) or (len(numeric) > 2 and all(numeric[2:])):
        return True
    if _is_unlike(names, rows):
        shown = [shortened(name) for name in names[:6]]
        raise DataError(
            f"{place}: {', '.join(map(repr, shown))} looks like a header, but not both the users "
            f"and the items have a known name in it; pass {parameter('header', True)} and name "
            f"their columns with {parameter('user', 'NAME')} and {parameter('item', 'NAME')}, or "
            f"{parameter('header', False)} if the line is an interaction"
        )
    return False


def _is_unlike(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first line has another shape than the ids below it, or a known name.

    Ids of a shop or a site nearly always have digits in them, names of columns hardly ever.
    """
    known = {alias for role in ("user", "item") for alias in ALIASES[role] if len(alias) > 1}
    if any(plain_name(name) in known for name in names):
        return True
    if len(rows) < 2 or any(re.search(r"\d", name) for name in names[:2]):
        return False
    digits = [sum(bool(re.search(r"\d", row[at])) for row in rows) for at in (0, 1)]
    return min(digits) >= 0.95 * len(rows)


def _is_word(field: str) -> bool:
    """Whether a field can name a column: neither a value nor a mark for a missing one."""
    missing = field.strip().lower() in ("", "-", "?", "na", "n/a", "null", "none")
    return not (missing or is_number(field) or is_time(field))


def is_number(field: str) -> bool:
    """Whether a field is a number, with a point or a comma."""
    try:
        float(field.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def is_time(field: str) -> bool:
    """Whether a third field cannot be a rating."""
    if re.match(r"\d{4}-\d\d-\d\d", field):
        return True
    return is_number(field) and float(field.replace(",", ".", 1)) >= _RECENT


def repeated_headers(users: pl.Series, items: pl.Series, *, header: bool) -> pl.Series | None:
    """Rows that name the columns once more, as concatenated files have them; None if none does.

    If the file has a ``header``, other names than its own count only where they end in "id", since
    nobody could say that a customer likes a book.
    """
    # Where ids are whole numbers, only what is none is looked at; else each different id once.
    suspects = items.filter(items.cast(pl.Int64, strict=False).is_null()).unique()
    named = _names_among(suspects, items.name, header=header)
    if len(named) == 0:
        return None
    rows = items.is_in(named.implode())
    who = users.filter(rows).unique()
    headers = rows & users.is_in(_names_among(who, users.name, header=header).implode())
    return headers if headers.any() else None


def _names_among(values: pl.Series, own: str, *, header: bool) -> pl.Series:
    """Those that are the column's own name or one known for a user or an item."""
    known = [*ALIASES["user"], *ALIASES["item"]]
    if header:
        known = [plain_name(own), *(name for name in known if name.endswith("id"))]
    plain = values.str.replace(":.*$", "").str.replace_all(r"[\s_\-.]", "").str.to_lowercase()
    # A single letter is a name of a column in a first line, and an id anywhere else.
    long = [name for name in known if len(name) > 1 or (header and name == plain_name(own))]
    return values.filter(plain.is_in(long))
