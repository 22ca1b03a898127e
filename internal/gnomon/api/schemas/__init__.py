"""The documents of the API, by subject: what is accepted, what is answered. The only place that knows marshmallow.

Only structure and types are checked here; the rules about values are those of gnomon.job. null means "not given".
"""
