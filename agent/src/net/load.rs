//! Loading the programs, pinning their maps and attaching them. Attachments and maps outlive the agent:
//! a new agent takes the maps over whose versions match, and swaps the program of every existing link
//! atomically instead of attaching again.
