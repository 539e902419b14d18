-- The time that all scripts go by.
-- Reply  milliseconds
return string.format('%.0f', now)
