"""Bytes on disk, and what is wrong with them: scans, label maps, ledgers, tables, locks."""
