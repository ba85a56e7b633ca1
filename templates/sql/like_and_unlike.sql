-- Images like these and not like those: near the mean of the ones, away from the mean of the others.
-- @like ARRAY<STRING>: keys of images, with commas between them or as a JSON list
-- @unlike ARRAY<STRING> = "": keys of images to stay away from
-- @weight FLOAT64 = 0.5: how much the others count
-- @k INT64 = 10: how many to find
-- @fetch INT64 = k + like + unlike: k and the images named
WITH wanted AS (
  SELECT
    i AS place,
    AVG(IF(key IN UNNEST(@like), x, NULL))
      - @weight * IFNULL(AVG(IF(key IN UNNEST(@unlike), x, NULL)), 0) AS value
  FROM images, UNNEST(embedding) AS x WITH OFFSET AS i
  WHERE key IN UNNEST(@like) OR key IN UNNEST(@unlike)
  GROUP BY i
  HAVING COUNTIF(key IN UNNEST(@like)) > 0
)
SELECT base.key, base.label, ROUND(1 - distance, 6) AS score, base.uri
FROM VECTOR_SEARCH(
  TABLE images,
  'embedding',
  (SELECT ARRAY_AGG(value ORDER BY place) AS embedding FROM wanted),
  top_k => @fetch,
  distance_type => 'COSINE')
WHERE base.key NOT IN UNNEST(@like) AND base.key NOT IN UNNEST(@unlike)
ORDER BY score DESC, key
LIMIT @k
