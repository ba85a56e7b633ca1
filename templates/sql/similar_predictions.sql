-- What a classifier says of the images most like one: as a check of either.
-- join predictions: a table of predictions of the same images (--join predictions=DEST)
-- @key STRING: that image's key
-- @k INT64 = 10: how many to find
-- @fetch INT64 = k + 1: k and the image itself
WITH found AS (
  SELECT base.key, base.label, ROUND(1 - distance, 6) AS score
  FROM VECTOR_SEARCH(
    TABLE images,
    'embedding',
    (SELECT key, embedding FROM images WHERE key = @key),
    top_k => @fetch,
    distance_type => 'COSINE')
  WHERE base.key <> query.key
)
SELECT found.key, found.label, found.score, predictions.prediction, predictions.score AS prediction_score
FROM found
LEFT JOIN predictions ON predictions.key = found.key
ORDER BY found.score DESC, found.key
LIMIT @k
