// Command verifier prints what every BPF program of the tree costs the kernel's
// verifier and how large it is, beside what is committed in programs.txt.
//
//	go run ./test/verifier            print, and fail if a program has grown
//	go run ./test/verifier -accept    write programs.txt anew
//
// It owns programs.txt. It loads every object that lies in bpf/, attaches
// nothing and needs root.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	accept := flag.Bool("accept", false, "write the table anew: what was measured is what is wanted")
	flag.Parse()
	if err := run(*accept); err != nil {
		fmt.Fprintln(os.Stderr, "verifier:", err)
		os.Exit(1)
	}
}

func run(accept bool) error {
	root, err := root()
	if err != nil {
		return err
	}
	path := filepath.Join(root, "test/verifier/programs.txt")
	now, err := measure(filepath.Join(root, "bpf"))
	if err != nil {
		return err
	}
	if accept {
		return os.WriteFile(path, []byte(now.String()), 0o644)
	}
	committed, err := readTable(path)
	if err != nil {
		return err
	}
	fmt.Print(now.beside(committed))
	return errors.Join(now.grown(committed)...)
}

// root is the folder of the module.
func root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
