"""Alert rules: records in, alerts out. Pure; time is counted in steps or enters as a record."""
