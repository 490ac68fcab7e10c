"""Claude on Google's Vertex AI: tokens of Google's, and requests in the form that Vertex takes."""
