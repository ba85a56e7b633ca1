-- Of the images with one label, those most like a vector.
-- @vector ARRAY<FLOAT64>: the embedding to look for; from --image or --vector
-- @label STRING: the label
-- @k INT64 = 10: how many to find; so many come when so many have the label
-- Brute force: by an index that doesn't store the label, BigQuery would filter after the search, and give fewer.
SELECT base.key, ROUND(1 - distance, 6) AS score, base.uri
FROM VECTOR_SEARCH(
  (SELECT key, uri, embedding FROM images WHERE label = @label),
  'embedding',
  (SELECT @vector AS embedding),
  top_k => @k,
  distance_type => 'COSINE',
  options => '{"use_brute_force": true}')
ORDER BY score DESC, key
