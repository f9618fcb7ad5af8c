"""Adds movies and queries them with the generated client. mypy checks the types.

Arguments: the URL of the service, and its API token.
"""

import sys

from movies_r_us import ApiClient, Configuration, IngestsApi, Movie, MoviesApi, MoviesFile, ProblemCode
from movies_r_us.exceptions import BadRequestException, UnauthorizedException
from movies_r_us.models.ingest import Ingest
from movies_r_us.models.problem import Problem
from typing_extensions import assert_type

url, token = sys.argv[1:]
client = ApiClient(Configuration(host=url))
movies = MoviesApi(client)
night_train = Movie(title="Night Train", year=1959, cast=["Lucyna Winnicka"], genres=["Drama"])
knife = Movie(title="Knife in the Water", year=1962, href="Knife_in_the_Water")
both = MoviesFile([night_train, knife])

try:
    movies.create_movies(both)
    raise AssertionError("accepted without a token")
except UnauthorizedException as refused:
    assert isinstance(refused.data, Problem) and refused.data.code is ProblemCode.UNAUTHORIZED, refused

with_token = MoviesApi(ApiClient(Configuration(host=url, access_token=token)))
added = with_token.create_movies(both)
assert_type(added.inserted, int)
assert added.inserted == 2, added

found = movies.list_movies(year=["1950..1960", "1962"], sort="-year")
first, second = found
assert_type(first.id, int)
assert_type(first.title, str | None)
assert_type(first.year, int | None)
assert_type(first.cast, list[str] | None)
assert (first.title, first.year, first.cast, first.genres) == ("Knife in the Water", 1962, [], [])
assert (first.href, second.href) == ("Knife_in_the_Water", None)
assert (second.title, second.cast, second.genres) == ("Night Train", ["Lucyna Winnicka"], ["Drama"])

(excerpt,) = movies.list_movies(title=["night", "train"], fields=["title", "year"])
assert (excerpt.title, excerpt.year, excerpt.cast) == ("Night Train", 1959, None), excerpt

one = movies.read_movie(excerpt.id)
assert_type(one.title, str)
assert_type(one.cast, list[str])
assert_type(one.provenance.record, int | None)
assert (one.title, one.provenance.record) == ("Night Train", 0), one

(count,) = movies.count_genres()
assert (count.genre, count.count) == ("Drama", 1), count

try:
    movies.list_movies(sort="length")
    raise AssertionError("an unknown order is accepted")
except BadRequestException as error:
    assert isinstance(error.data, Problem), error
    assert error.data.code is ProblemCode.INVALID_PARAMETER and "sort" in error.data.detail, error

ingests = IngestsApi(client).list_ingests()
assert_type(ingests, list[Ingest])
assert ingests == []
