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

-- Teachers of an arbitrage, and the languages of the prompts that they may be asked about.
CREATE TABLE teachers (
    release VARCHAR, version VARCHAR, latest BOOLEAN, source VARCHAR,
    teacher VARCHAR, language VARCHAR, script VARCHAR,
    prompts BIGINT,           -- there are so many prompts
    answered BIGINT           -- of them it has an answer to so many
);

CREATE TABLE statistics (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    stage VARCHAR,
    statistic VARCHAR,        -- what was counted, such as confusion
    keys MAP(VARCHAR, VARCHAR),  -- the group, such as declared and detected language
    measure VARCHAR,          -- what the value is, such as rows
    value DOUBLE
);

-- What the mixture asked for and what came of it: axis `all`, each level's values, floors that stayed short, full caps.
CREATE VIEW mixture AS
SELECT release, version, latest,
    keys['kind'] AS kind,
    keys['axis'] AS axis,     -- all, source, dataset, language, origin, …, floor:language, cap:source,dataset
    keys['value'] AS value,
    max(value) FILTER (WHERE measure = 'requested_share') AS requested_share,  -- of rows, or of tokens with unit: tokens
    max(value) FILTER (WHERE measure = 'achieved_share') AS achieved_share,
    nullif(max(value) FILTER (WHERE measure = 'requested_rows'), 0)::BIGINT AS requested_rows,
    max(value) FILTER (WHERE measure = 'achieved_rows')::BIGINT AS achieved_rows,
    nullif(max(value) FILTER (WHERE measure = 'requested_tokens'), 0)::BIGINT AS requested_tokens,
    max(value) FILTER (WHERE measure = 'achieved_tokens')::BIGINT AS achieved_tokens,
    max(value) FILTER (WHERE measure = 'distinct_rows')::BIGINT AS distinct_rows,
    max(value) FILTER (WHERE measure = 'available_rows')::BIGINT AS available_rows,
    max(value) FILTER (WHERE measure = 'available_tokens')::BIGINT AS available_tokens,
    round(max(value) FILTER (WHERE measure = 'achieved_rows')
        / nullif(max(value) FILTER (WHERE measure = 'distinct_rows'), 0), 4) AS epochs
FROM statistics WHERE statistic = 'mixture'
GROUP BY ALL;

-- How many tokens the spec's tokenizer makes of a language's texts, without its chat template.
CREATE VIEW fertility AS
SELECT release, version, latest,
    keys['language'] AS language,
    keys['script'] AS script,
    sum(value) FILTER (WHERE measure = 'rows')::BIGINT AS rows,
    sum(value) FILTER (WHERE measure = 'tokens')::BIGINT AS tokens,
    round(sum(value) FILTER (WHERE measure = 'tokens')
        / nullif(sum(value) FILTER (WHERE measure = 'words'), 0), 4) AS per_word,  -- null where words are not spaced
    round(sum(value) FILTER (WHERE measure = 'tokens')
        / nullif(sum(value) FILTER (WHERE measure = 'characters'), 0), 4) AS per_character,
    round(sum(value) FILTER (WHERE measure = 'tokens')
        / nullif(sum(value) FILTER (WHERE measure = 'bytes'), 0), 4) AS per_byte,  -- of UTF-8
    sum(value) FILTER (WHERE measure = 'untemplated')::BIGINT AS untemplated       -- rows that the template refused
FROM statistics WHERE statistic = 'fertility'
GROUP BY ALL;

-- What language identification found in rows of each declared variety, and what became of them.
CREATE VIEW confusion AS
SELECT release, version, latest,
    keys['on'] AS "on",           -- what was read: conversation, prompt or answer
    keys['declared'] AS declared,
    keys['detected'] AS detected, -- a variety, und_Latn and so on, or undetermined
    keys['outcome'] AS outcome,   -- kept, flagged, dropped or undetermined
    sum(value)::BIGINT AS rows
FROM statistics WHERE statistic = 'confusion' AND measure = 'rows'
GROUP BY ALL;

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

CREATE TABLE shape.workspace (root VARCHAR, layout VARCHAR);  -- layout: digest of all statements

CREATE TABLE shape.completions (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    source VARCHAR,
    prompt VARCHAR,           -- row_key of the row that was asked about
    language VARCHAR, script VARCHAR,
    teacher VARCHAR, family VARCHAR,
    sample INTEGER,
    key VARCHAR,              -- in the journal
    finish VARCHAR,           -- stop, length, or what the engine says
    tokens INTEGER, chars INTEGER,
    length DOUBLE,            -- characters, relative to an ordinary answer in that language
    digest VARCHAR,           -- equal for answers that say the same
    penalties VARCHAR[],      -- what comes before any score
    score DOUBLE,             -- of all arbiters together
    disagreement DOUBLE       -- standard deviation of what several arbiters say, in units of their spread
);

CREATE TABLE shape.failures (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    source VARCHAR, prompt VARCHAR, language VARCHAR, script VARCHAR,
    step VARCHAR,             -- who was asked what: generate/<teacher>, arbiter/<judge> …
    tag VARCHAR,              -- the number of the sample, or what tells requests about a prompt apart
    key VARCHAR,              -- in the journal
    reason VARCHAR            -- why it has no answer
);

CREATE TABLE shape.scores (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    source VARCHAR, prompt VARCHAR, language VARCHAR, script VARCHAR,
    teacher VARCHAR, sample INTEGER,
    arbiter VARCHAR,
    score DOUBLE,             -- as the arbiter gave it; null where it could not say
    note VARCHAR              -- a critique, where one was asked for
);

CREATE TABLE shape.decisions (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    source VARCHAR, prompt VARCHAR, language VARCHAR, script VARCHAR,
    teacher VARCHAR,          -- whose answer was picked; null where none was
    sample INTEGER, key VARCHAR, score DOUBLE,
    reason VARCHAR,           -- the rule that picked it
    tied INTEGER,             -- how many answers shared the best place
    candidates INTEGER,       -- how many there were
    review VARCHAR,           -- where there is a review: what became of it for the prompt; null where it was not chosen
    scorer VARCHAR            -- where there is a review: whose scale the score is on, arbiter or review
);

CREATE TABLE shape.pairs (
    release VARCHAR, version VARCHAR, latest BOOLEAN,
    source VARCHAR, prompt VARCHAR, language VARCHAR, script VARCHAR,
    chosen_teacher VARCHAR, chosen_sample INTEGER, chosen_key VARCHAR, chosen_score DOUBLE,
    rejected_teacher VARCHAR, rejected_sample INTEGER, rejected_key VARCHAR, rejected_score DOUBLE,
    margin DOUBLE,
    scorer VARCHAR,           -- where there is a review: whose scale the scores and the margin are on, arbiter or review
    outcome VARCHAR           -- kept, or why it was refused
);
