-- The images most like a vector, or like an image file (--image FILE --model BUNDLE).
-- @vector ARRAY<FLOAT64>: the embedding to look for; from --image or --vector
-- @k INT64 = 10: how many to find
SELECT base.key, base.label, ROUND(1 - distance, 6) AS score, base.uri
FROM VECTOR_SEARCH(
  TABLE images,
  'embedding',
  (SELECT @vector AS embedding),
  top_k => @k,
  distance_type => 'COSINE')
ORDER BY score DESC, key
