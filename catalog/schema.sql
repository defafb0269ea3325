-- The catalog of a workspace. Small facts are tables, filled from the manifests; rows, ledger and edges
-- are views over the Parquet files of the releases, typed by the empty tables of schema `shape`.

CREATE TABLE releases (
    release VARCHAR,          -- name, as in the spec
    version VARCHAR,          -- derived from the content
    latest BOOLEAN,           -- what the last build of this name made
    profile VARCHAR,
    policy VARCHAR,
    description VARCHAR,
    rows BIGINT,              -- epochs counted
    digest VARCHAR,           -- logical: equal for equal rows, however stored
    made_with VARCHAR,
    path VARCHAR,
    problem VARCHAR           -- what is wrong with the folder; null when nothing is
);

CREATE TABLE stages (
    release VARCHAR, version VARCHAR,
    number INTEGER,           -- order of the stages, from 0
    stage VARCHAR,
    rows_in BIGINT, created BIGINT, rows_out BIGINT,
    dropped BIGINT, merged BIGINT, not_sampled BIGINT, consumed BIGINT
);

CREATE TABLE sources (
    release VARCHAR, version VARCHAR,
    source VARCHAR, builder VARCHAR,
    use VARCHAR,              -- train, prompts or benchmark
    lost BIGINT,              -- rows that were dropped, merged, not sampled or used up
    kept BIGINT,              -- different rows in the release
    rows BIGINT,              -- kept rows times their epochs
    epochs DOUBLE,
    pins MAP(VARCHAR, VARCHAR)
);

CREATE TABLE shards (
    release VARCHAR, version VARCHAR,
    kind VARCHAR, variety VARCHAR,
    config VARCHAR,           -- second argument of datasets.load_dataset
    split VARCHAR,
    rows BIGINT, bytes BIGINT,
    digest VARCHAR, logical VARCHAR,
    path VARCHAR              -- within the release
);

CREATE TABLE languages (
    release VARCHAR, version VARCHAR,
    kind VARCHAR, variety VARCHAR, split VARCHAR,
    language VARCHAR, script VARCHAR,
    name VARCHAR,             -- in English
    rows BIGINT, chars BIGINT, tokens BIGINT
);

CREATE TABLE licenses (
    release VARCHAR, version VARCHAR,
    license VARCHAR,          -- SPDX expression
    use VARCHAR, attribution BOOLEAN, share_alike BOOLEAN, derivatives BOOLEAN,  -- null: not known
    rows BIGINT
);

CREATE TABLE rules (
    release VARCHAR, version VARCHAR,
    stage VARCHAR, source VARCHAR, outcome VARCHAR, rule VARCHAR,
    rows BIGINT
);

CREATE TABLE statistics (
    release VARCHAR, version VARCHAR,
    stage VARCHAR,
    statistic VARCHAR,        -- what was counted, such as confusion
    keys MAP(VARCHAR, VARCHAR),  -- the group, such as declared and detected language
    measure VARCHAR,          -- what the value is, such as rows
    value DOUBLE
);

CREATE SCHEMA shape;

CREATE TABLE shape.rows (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    kind VARCHAR, variety VARCHAR, config VARCHAR, split VARCHAR,
    id VARCHAR, row_key VARCHAR, "group" VARCHAR,
    messages STRUCT(role VARCHAR, content VARCHAR)[],   -- of a preference: the chosen conversation
    rejected STRUCT(role VARCHAR, content VARCHAR)[],
    language VARCHAR, script VARCHAR, source_language VARCHAR,
    source VARCHAR, source_dataset VARCHAR, origin VARCHAR, task VARCHAR,
    license VARCHAR, terms VARCHAR[],
    provenance STRUCT(
        dataset VARCHAR, revision VARCHAR, config VARCHAR, split VARCHAR, file VARCHAR, "row" BIGINT,
        template VARCHAR, translator VARCHAR, teacher VARCHAR, parents VARCHAR[]
    ),
    tools VARCHAR, extra VARCHAR,
    tags MAP(VARCHAR, VARCHAR), scores MAP(VARCHAR, DOUBLE),
    n_tokens INTEGER, epoch INTEGER,
    margin FLOAT, chosen_score FLOAT, rejected_score FLOAT, chosen_model VARCHAR, rejected_model VARCHAR,
    shard VARCHAR,            -- path of the file within the release
    position BIGINT           -- row within the file, from 0
);

CREATE TABLE shape.ledger (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    stage VARCHAR, source VARCHAR, row_key VARCHAR, outcome VARCHAR, rule VARCHAR,
    value VARCHAR, threshold VARCHAR, evidence VARCHAR, partner VARCHAR, file VARCHAR, "row" BIGINT
);

CREATE TABLE shape.edges (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    child VARCHAR, parent VARCHAR, source VARCHAR
);

CREATE TABLE shape.workspace (root VARCHAR);
