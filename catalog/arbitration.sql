-- Who answered, who won, and by how much: one row for each teacher in each language of a source, those without any
-- answer included. The interval is Wilson's, for 95 %.
CREATE VIEW arbitration AS
WITH said AS (
    SELECT release, version, latest, source, language, script, teacher,
        count(DISTINCT prompt) AS prompts,
        count(*) AS completions,
        count(*) FILTER (WHERE len(penalties) > 0) AS penalised,
        avg(score) AS mean_score,
        median(length) AS median_length
    FROM completions GROUP BY ALL
), answered AS (
    FROM said
    UNION ALL BY NAME
    SELECT release, version, latest, source, language, script, teacher,
        0 AS prompts, 0 AS completions, 0 AS penalised
    FROM teachers WHERE answered = 0
), won AS (
    SELECT release, version, source, language, script, teacher, count(*) AS wins
    FROM decisions WHERE teacher IS NOT NULL GROUP BY ALL
), shares AS (
    SELECT a.*, coalesce(w.wins, 0) AS wins, coalesce(w.wins, 0) / nullif(a.prompts, 0) AS p
    FROM answered a LEFT JOIN won w USING (release, version, source, language, script, teacher)
)
SELECT release, version, latest, source, language, script, teacher,
    prompts, completions, penalised, wins,
    round(p, 4) AS win_share,
    if(prompts > 0, round(greatest(0, (p + 1.9208 / prompts - 1.96 * sqrt(p * (1 - p) / prompts + 0.9604 / (prompts * prompts)))
        / (1 + 3.8416 / prompts)), 4), NULL) AS low,
    if(prompts > 0, round(least(1, (p + 1.9208 / prompts + 1.96 * sqrt(p * (1 - p) / prompts + 0.9604 / (prompts * prompts)))
        / (1 + 3.8416 / prompts)), 4), NULL) AS high,
    round(mean_score, 4) AS mean_score,
    round(median_length, 4) AS median_length
FROM shares;
