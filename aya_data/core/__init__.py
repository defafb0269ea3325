"""What every layer shares: rows, identity, languages, licences, specs, stages, the store."""
