//! Command-line flags and terminal behaviour shared by the programs.
