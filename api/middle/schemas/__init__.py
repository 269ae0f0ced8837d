"""What each task type takes and answers: pydantic models that validate and that OpenAPI is generated from."""
