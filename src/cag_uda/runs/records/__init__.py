"""The records of a run: every JSON file and log line that a run writes, as one schema.

What writes a file and what reads it use the same model. Knows neither torch nor the rest of the
package, so that every part may import it (`cag_uda.runs` imports most of them).

Every key has a default unless the file makes no sense without it, so that folders of earlier
versions open. A key that is unknown, of a later version, is kept when the file is written again.
"""
