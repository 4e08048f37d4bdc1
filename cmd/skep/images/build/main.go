// Command build writes the images of the demo and the tests as docker archives:
//
//	go run ./cmd/skep/images/build -bin bin -out bin/images
//
// The programs in -bin (echo, skep-dns) must be static; `make build` makes them so.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/skep-io/skep/cmd/skep/images"
)

func main() {
	bin := flag.String("bin", "bin", "folder of the built programs")
	out := flag.String("out", "bin/images", "folder for the archives")
	flag.Parse()
	if err := build(*bin, *out); err != nil {
		fmt.Fprintln(os.Stderr, "build images:", err)
		os.Exit(1)
	}
}

func build(bin, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	shell, err := images.ShellImage()
	if err != nil {
		return err
	}
	for file, image := range map[string]images.Image{
		"echo.tar":     images.EchoImage(filepath.Join(bin, "echo")),
		"skep-dns.tar": images.DNSImage(filepath.Join(bin, "skep-dns")),
		"shell.tar":    shell,
	} {
		if err := images.WriteFile(filepath.Join(out, file), image); err != nil {
			return err
		}
	}
	return nil
}
