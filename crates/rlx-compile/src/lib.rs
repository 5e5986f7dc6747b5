//! Passes, profiles, memory plan and the backend trait.
