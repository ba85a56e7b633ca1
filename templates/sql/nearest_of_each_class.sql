-- Of each label, the images most like a vector.
-- @vector ARRAY<FLOAT64>: the embedding to look for; from --image or --vector
-- @k INT64 = 3: how many of each label
-- No VECTOR_SEARCH: it finds the nearest of all, not of each label.
WITH scored AS (
  SELECT label, key, ROUND(cosine_similarity(embedding, @vector), 6) AS score
  FROM images
  WHERE label IS NOT NULL
),
ranked AS (
  SELECT label, key, score, ROW_NUMBER() OVER (PARTITION BY label ORDER BY score DESC, key) AS place
  FROM scored
)
SELECT label, place, key, score
FROM ranked
WHERE place <= @k
ORDER BY label, place
