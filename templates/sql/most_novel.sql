-- What is new since a date: the images written since then that are least like any from before.
-- @since TIMESTAMP: e.g. 2026-11-01 or 2026-11-01T06:00:00Z; UTC when it names no zone
-- @k INT64 = 20: how many to find
-- Brute force: by an index that doesn't store written_at, BigQuery would filter after the search, and the nearest
-- images would be other new ones.
SELECT
  query.key,
  query.label,
  ROUND(1 - distance, 6) AS nearest_score,
  base.key AS nearest_key,
  query.written_at
FROM VECTOR_SEARCH(
  (SELECT key, embedding FROM images WHERE written_at < @since),
  'embedding',
  (SELECT key, label, written_at, embedding FROM images WHERE written_at >= @since),
  top_k => 1,
  distance_type => 'COSINE',
  options => '{"use_brute_force": true}')
ORDER BY nearest_score, key
LIMIT @k
