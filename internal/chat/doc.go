// Package chat writes conversations as models were trained to read them, with a mark on what the assistant says.
package chat
