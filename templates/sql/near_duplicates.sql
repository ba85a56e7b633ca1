-- Pairs of images that are nearly the same.
-- @least_score FLOAT64 = 0.98: how alike the images of a pair are at least, as a cosine
-- @neighbours INT64 = 10: how many neighbours of an image are looked at
-- @fetch INT64 = neighbours + 1: and the image itself
-- @most INT64 = 1000: how many pairs at most
SELECT one, other, MAX(score) AS score
FROM (
  SELECT
    LEAST(query.key, base.key) AS one,
    GREATEST(query.key, base.key) AS other,
    ROUND(1 - distance, 6) AS score
  FROM VECTOR_SEARCH(
    TABLE images,
    'embedding',
    (SELECT key, embedding FROM images),
    top_k => @fetch,
    distance_type => 'COSINE')
  WHERE base.key <> query.key
)
WHERE score >= @least_score
GROUP BY one, other
ORDER BY score DESC, one, other
LIMIT @most
