package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// one requires one argument; without it the error says what it is and how the command is used.
func one(what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("want one %s, not %d: %s", what, len(args), command.UseLine())
		}
		return nil
	}
}

// showHelp is what a command does that only has subcommands. With cobra.NoArgs it refuses a subcommand that it does not
// have, where cobra alone would print the help and call it a success.
func showHelp(command *cobra.Command, _ []string) error { return command.Help() }
