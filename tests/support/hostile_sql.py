"""SQL that strangers may send to do harm, each with what it tries and how it must end.

`refused`: an error before anything runs. `stopped`: it may compute, and ends by a limit, by an error or with rows, all
of them bounded. `told`: rows come, and they tell nothing of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["refused", "stopped", "told"]


@dataclass(frozen=True)
class Hostile:
    tries: str
    sql: str
    outcome: Outcome


def _deep(opening: str, inner: str, closing: str, depth: int) -> str:
    return "SELECT " + opening * depth + inner + closing * depth


_LISTS = {
    "refused": {
        # other kinds of statements
        "write a file": "COPY (SELECT 1) TO '/tmp/csp_hostile.csv'",
        "write a file from a view": "COPY images TO '/tmp/csp_hostile.parquet' (FORMAT parquet)",
        "read a file into a table": "COPY images FROM '/etc/passwd'",
        "open another database": "ATTACH '/tmp/csp_hostile.db' AS other",
        "open a database over the network": "ATTACH 'https://example.org/x.db' AS other",
        "close the database": "DETACH memory",
        "fetch an extension": "INSTALL httpfs",
        "load an extension": "LOAD httpfs",
        "load a library": "LOAD '/tmp/evil.so'",
        "write everything out": "EXPORT DATABASE '/tmp/csp_hostile'",
        "read a database in": "IMPORT DATABASE '/tmp/csp_hostile'",
        "change a setting": "SET memory_limit = '1TB'",
        "change a setting for everyone": "SET GLOBAL enable_external_access = true",
        "unlock the settings": "SET lock_configuration = false",
        "reset a setting": "RESET memory_limit",
        "a pragma": "PRAGMA database_list",
        "a pragma with a value": "PRAGMA enable_profiling = 'json'",
        "call a function": "CALL pragma_version()",
        "create a table": "CREATE TABLE t AS SELECT 1",
        "create a macro": "CREATE MACRO f(x) AS (SELECT x)",
        "replace the macro of activations": "CREATE OR REPLACE MACRO activations(a) AS TABLE SELECT 1",
        "create a secret": "CREATE SECRET s (TYPE s3, KEY_ID 'k', SECRET 's')",
        "create a type": "CREATE TYPE mood AS ENUM ('a')",
        "insert": "INSERT INTO images VALUES (1)",
        "update": "UPDATE labels SET text = 'mine'",
        "delete": "DELETE FROM images",
        "drop a view": "DROP VIEW images",
        "alter a view": "ALTER VIEW images RENAME TO gone",
        "a transaction": "BEGIN TRANSACTION",
        "rollback": "ROLLBACK",
        "a checkpoint": "CHECKPOINT",
        "prepare": "PREPARE p AS SELECT 1",
        "execute": "EXECUTE p",
        "a variable": "SET VARIABLE x = 1",
        "the plan, with file names": "EXPLAIN ANALYZE SELECT * FROM images",
        "compact": "VACUUM",
        "another schema": "USE temp",
        "two statements": "SELECT 1; SELECT 2",
        "a second statement behind a comment": "SELECT 1 /* ; */; DROP VIEW images --",
        "no statement": ";;;",
        "a write inside a CTE": "WITH x AS (INSERT INTO images VALUES (1) RETURNING *) SELECT * FROM x",
        # files, network, the process
        "read a file": "SELECT * FROM read_text('/etc/passwd')",
        "read a file by its name": "FROM '/etc/passwd'",
        "read bytes": "SELECT * FROM read_blob('/proc/self/environ')",
        "read CSV": "SELECT * FROM read_csv('/etc/passwd', header = false)",
        "guess CSV": "SELECT * FROM sniff_csv('/etc/passwd')",
        "read JSON": "SELECT * FROM read_json_auto('/etc/hostname')",
        "read parquet": "SELECT * FROM read_parquet('**/*.parquet')",
        "look into parquet": "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
        "list files": "SELECT * FROM glob('/**')",
        "read over the network": "SELECT * FROM read_csv('https://example.org/x.csv')",
        "read from a bucket": "FROM 's3://bucket/x.parquet'",
        "read the metadata of a cloud": "SELECT * FROM read_text('http://169.254.169.254/latest/meta-data/')",
        "an extension loaded by itself": "SELECT * FROM sqlite_scan('/tmp/x.db', 't')",
        "a file behind a built name": "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
        "a table behind a built name": "SELECT * FROM query_table('/etc/passwd')",
        "a statement as JSON": "SELECT * FROM json_execute_serialized_sql("
        "json_serialize_sql('SELECT * FROM read_text(''/etc/passwd'')'))",
        "a variable of the environment": "SELECT getenv('HOSTILE_SECRET')",
        "a variable of Python": "SELECT * FROM settings",
        "memory at an address": "SELECT * FROM arrow_scan(140737488355328, 140737488355328, 140737488355328)",
        "a data frame at an address": "SELECT * FROM pandas_scan(140737488355328)",
        "run Python": "SELECT * FROM python_map_function((SELECT 1), 'os.system')",
        "stored secrets": "SELECT * FROM duckdb_secrets()",
        "a setting by a function": "SELECT set_config('memory_limit', '1TB')",
        "write a profile": "SELECT * FROM enable_profiling(save_location := '/tmp/csp_hostile.json')",
        "write a log": "SELECT * FROM enable_logging(storage := 'file', storage_path := '/tmp/csp_hostile')",
        # what a parser may choke on
        "half a word": "SELEC 1",
        "an open quote": "SELECT 'x",
        "an open comment": "SELECT 1 /* ",
        "a statement of 150 kB": "SELECT '" + "x" * 150_000 + "'",
        "an address of no neuron": "FROM activations('../../../etc/passwd')",
        "half a surrogate pair": "SELECT '\ud800'",
        "deep parentheses": _deep("(", "1", ")", 20_000),
        "deep functions": _deep("abs(", "1", ")", 15_000),
        "deep subqueries": _deep("(SELECT ", "1", ")", 8_000),
        "deep minus signs": _deep("- ", "1", "", 40_000),
    },
    "stopped": {
        # more than memory or time allow
        "two billion letters": "SELECT length(repeat('x', 2000000000))",
        "a list of a hundred million": "SELECT list_sum(range(100000000))",
        "a list of ten billion": "SELECT list_sum(range(10000000000))",
        "a recursion without end": "WITH RECURSIVE t AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM t) SELECT 1 FROM t",
        "a recursion that doubles": "WITH RECURSIVE t AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM t) "
        "SELECT max(length(s)) FROM t",
        "a cross join": "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 1",
        "many cross joins of views": "SELECT sum(length(a.text) * d.image_id) FROM labels a, labels b, labels c, "
        "images d, images e, images f, images g",
        "rows without end": "SELECT * FROM range(1000000000000)",
        "a wide answer": "SELECT repeat('x', 100000) FROM range(100000)",
        "one huge cell": "SELECT repeat('x', 100000000)",
        "an answer of lists": "SELECT range(1000000) FROM range(100)",
        "unnest without end": "SELECT count(*) FROM (SELECT unnest(range(1000000000000)))",
        "unnest twice": "SELECT count(x) FROM (SELECT unnest(range(a.range)) AS x FROM range(10000000) a)",
        "a string of all rows": "SELECT length(string_agg(repeat('x', 1000), '')) FROM range(10000000)",
        "a list of all rows": "SELECT len(list(a.range)) FROM range(1000000000) a",
        "a big sort": "SELECT * FROM range(1000000000) a ORDER BY hash(a.range) LIMIT 1 OFFSET 500000000",
        "many groups": "SELECT count(*) FROM (SELECT hash(range), count(*) FROM range(1000000000) GROUP BY 1)",
        "a big window": "SELECT max(m) FROM (SELECT median(range) OVER (ORDER BY hash(range) "
        "ROWS BETWEEN 1000000 PRECEDING AND 1000000 FOLLOWING) AS m FROM range(3000000))",
        "backtracking": "SELECT regexp_matches(repeat('a', 100000) || 'b', '^(a|a?)+(a+)+$')",
        "a regular expression of many states": "SELECT regexp_matches(repeat('a', 99999), '((a{1,30}){1,30}){1,30}b')",
        "backtracking in LIKE": "SELECT repeat('a', 100000) LIKE repeat('%a', 2000) || 'b'",
        "a slow distance": "SELECT levenshtein(repeat('a', 100000), repeat('b', 100000))",
        "padding": "SELECT length(lpad('x', 2000000000, 'y'))",
        "letters that multiply": "SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 100000)))",
        "reduce without end": "SELECT list_reduce(range(50000000), lambda a, b: a + b % 7)",
        "lists inside lists": "SELECT len(list_transform(range(100000), lambda x: range(100000)))",
        "JSON that nests": "SELECT json_structure(repeat('[', 1000000) || repeat(']', 1000000))",
        "JSON that is long": "SELECT json_array_length('[' || repeat('1,', 400000000) || '1]')",
        "a pivot of many columns": "PIVOT (SELECT range AS a, range AS b FROM range(200000)) ON b USING count(*)",
        "a big literal": "SELECT " + "9" * 90_000,
        "a big power": "SELECT 10.0 ** 1e308 * 1e308, 2 ** 100000",
        "a big factorial": "SELECT 100000!",
        "many columns": "SELECT " + ",".join(["1"] * 45_000),
        "many terms": "SELECT " + "+".join(["1"] * 45_000),
        "many values": "SELECT count(*) FROM (VALUES " + ",".join(["(1)"] * 20_000) + ")",
        "many unions": " UNION ALL ".join(["SELECT 1"] * 5_000),
        "many joins": "SELECT count(*) FROM images "
        + "".join(f"JOIN images i{n} USING (image_id) " for n in range(500)),
        "many CTEs that double": "WITH a0 AS (SELECT 1 AS x), "
        + ", ".join(f"a{n} AS (SELECT p.x FROM a{n - 1} p, a{n - 1} q, a{n - 1} r)" for n in range(1, 25))
        + " SELECT count(*) FROM a24",
        "macros of activations without end": "SELECT count(*) FROM range(1000000) r, neurons n, activations(n.address)",
        "a generated series": "SELECT count(*) FROM generate_series(TIMESTAMP '0001-01-01', TIMESTAMP '9999-01-01', "
        "INTERVAL 1 microsecond)",
        "sleeping": "SELECT sleep_ms(60000)",
        "random without end": "SELECT count(*) FROM range(100000000000) WHERE random() < 0",
        "digests without end": "SELECT max(sha256(repeat('x', 1000000) || range)) FROM range(1000000)",
        "a bit string": "SELECT bit_count(bitstring('1', 1000000000))",
        "a bar": "SELECT length(bar(1, 0, 1, 1000000000))",
        "printf": "SELECT length(format('{:>2000000000}', 1)), length(printf('%2000000000d', 1))",
        "a histogram": "SELECT histogram(range) FROM range(100000000)",
    },
    "told": {
        "no address": "FROM activations(NULL)",
        "settings": "SELECT name, value FROM duckdb_settings()",
        "one setting": "SELECT current_setting('secret_directory'), current_setting('temp_directory')",
        "databases": "SELECT * FROM duckdb_databases()",
        "definitions of views": "SELECT sql FROM duckdb_views()",
        "functions": "SELECT function_name, macro_definition FROM duckdb_functions()",
        "temporary files": "SELECT * FROM duckdb_temporary_files()",
        "variables": "SELECT * FROM duckdb_variables()",
        "logs": "SELECT * FROM duckdb_logs()",
        "the user": "SELECT current_user, session_user, user, current_database(), version()",
        "a variable by a function": "SELECT getvariable('HOSTILE_SECRET')",
        "the platform": "SELECT * FROM pragma_platform(), pragma_version(), pragma_user_agent()",
        "all tables": "SHOW ALL TABLES",
        "letters of all scripts": "SELECT '\u202e\u0000\ufeff' || chr(1114111) || '\U0001f9e0' AS \"\u202e\"",
        "markup": "SELECT '<script>alert(1)</script>' AS \"<img src=x>\"",
        "a formula": "SELECT '=cmd|'' /C calc''!A0' AS f",
        "numbers that are none": "SELECT 'nan'::DOUBLE AS a, 'inf'::DOUBLE AS b, -0.0 AS c, '-inf'::FLOAT AS d",
        "times out of range": "SELECT 'infinity'::TIMESTAMP::VARCHAR AS a, DATE '290000-01-01'::VARCHAR AS b",
        "a bomb that is text": "SELECT 'DROP TABLE images; --' AS harmless",
        "the same name often": "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a",
    },
}

HOSTILE = [Hostile(tries, sql, outcome) for outcome, listed in _LISTS.items() for tries, sql in listed.items()]  # type: ignore[arg-type]
