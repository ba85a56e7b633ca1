-- How far each day's images have moved away: the cosine of their mean vector and of the mean from before a date.
-- @since TIMESTAMP: the days from here on are compared; UTC when it names no zone
WITH baseline AS (
  SELECT i AS place, AVG(x) AS value
  FROM images, UNNEST(embedding) AS x WITH OFFSET AS i
  WHERE written_at < @since
  GROUP BY i
),
days AS (
  SELECT DATE(written_at) AS day, i AS place, AVG(x) AS value, COUNT(*) AS images
  FROM images, UNNEST(embedding) AS x WITH OFFSET AS i
  WHERE written_at >= @since
  GROUP BY 1, 2
)
SELECT
  days.day,
  MAX(days.images) AS images,
  ROUND(
    SUM(days.value * baseline.value)
      / SQRT(SUM(days.value * days.value) * SUM(baseline.value * baseline.value)),
    6) AS similarity
FROM days
LEFT JOIN baseline ON days.place = baseline.place
GROUP BY days.day
ORDER BY days.day
