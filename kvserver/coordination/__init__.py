"""Who is primary: nothing to decide while there is one node; manual promotion and leases of an existing engine come here."""
