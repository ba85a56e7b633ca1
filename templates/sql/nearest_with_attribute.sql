-- Of the images with one value of an attribute, those most like a vector.
-- @vector ARRAY<FLOAT64>: the embedding to look for; from --image or --vector
-- @name STRING: the attribute's name
-- @value STRING: its value
-- @k INT64 = 10: how many to find; so many come when so many have the value
-- No VECTOR_SEARCH: an attribute is looked up by a subquery, which its base table may not have.
SELECT key, label, ROUND(cosine_similarity(embedding, @vector), 6) AS score, uri
FROM images
WHERE attributes[@name] = @value
ORDER BY score DESC, key
LIMIT @k
