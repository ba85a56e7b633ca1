-- Images whose label may be wrong: most of their neighbours have another one.
-- @neighbours INT64 = 10: how many neighbours of an image vote
-- @fetch INT64 = neighbours + 1: and the image itself
-- @least_share FLOAT64 = 0.5: what part of them must agree on another label, at least
-- @most INT64 = 100: how many images at most
WITH counted AS (
  SELECT query.key, query.label, base.label AS other, COUNT(*) AS votes
  FROM VECTOR_SEARCH(
    TABLE images,
    'embedding',
    (SELECT key, label, embedding FROM images WHERE label IS NOT NULL),
    top_k => @fetch,
    distance_type => 'COSINE')
  WHERE base.key <> query.key AND base.label IS NOT NULL
  GROUP BY 1, 2, 3
),
shares AS (
  SELECT
    key, label, other, votes,
    ROUND(votes / SUM(votes) OVER (PARTITION BY key), 6) AS share,
    ROW_NUMBER() OVER (PARTITION BY key ORDER BY votes DESC, other) AS place
  FROM counted
)
SELECT key, label, other AS neighbours_say, share
FROM shares
WHERE place = 1 AND other <> label AND share >= @least_share
ORDER BY share DESC, key
LIMIT @most
