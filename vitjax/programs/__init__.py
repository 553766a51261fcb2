"""Whole experiments: functions of a config that train several models and compare them (`config.program`)."""
