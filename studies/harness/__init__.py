"""What runs on the driver, a room each: plan, execute, track, report.

`command` imports `kinds`, which imports `cluster`, `tracking` and `report`; these import `evidence`, then `published`,
`statistics` and `design`. Never the reverse. A file belongs to the lowest room that has all that it needs.
"""
