//! Times of the API.
