"""Sweeps: what is searched, by whom, which trial is whose, a trial's process, and the report. Optuna is imported only
where it is used."""
