"""The scaling law: forms, fitting, selection, validation. Needs a runs table and nothing that trains."""
