// Package chat reads records to learn from, one JSON object a line, and writes conversations as models were
// trained to read them, with a mark on what the assistant says.
package chat
