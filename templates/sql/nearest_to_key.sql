-- The images most like an image of the table.
-- @key STRING: that image's key
-- @k INT64 = 10: how many to find
-- @fetch INT64 = k + 1: k and the image itself
SELECT base.key, base.label, ROUND(1 - distance, 6) AS score, base.uri
FROM VECTOR_SEARCH(
  TABLE images,
  'embedding',
  (SELECT key, embedding FROM images WHERE key = @key),
  top_k => @fetch,
  distance_type => 'COSINE')
WHERE base.key <> query.key
ORDER BY score DESC, key
LIMIT @k
