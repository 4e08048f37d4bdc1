package runtime

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The content of pull secrets comes from any user who may write secrets.
func FuzzDockerConfig(f *testing.F) {
	for _, seed := range []string{
		`{"auths":{"https://registry.example/v2/":{"auth":"dXNlcjpwYXNz"}}}`,
		`{"auths":{"registry.example/team":{"username":"u","password":"p"},"":{}}}`,
		`{"registry.example":{"auth":"!"}}`, `{"auths":{"a":{"identitytoken":"t"}}}`, `{"auths":null}`, `[]`, ``,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, legacy bool) {
		creds, err := ParseDockerConfig(data, legacy)
		if err != nil {
			return
		}
		for _, c := range creds {
			host, path, _ := strings.Cut(c.Scope, "/")
			if found, ok := creds.find(host+".elsewhere", path); ok && !strings.HasPrefix(found.Scope, host+".elsewhere") {
				t.Errorf("credentials of %q were found for another host", found.Scope)
			}
		}
	})
}

// Manifests and configurations come from a registry or from an archive.
func FuzzImageConfig(f *testing.F) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, seed := range []string{
		`{"os":"linux","config":{"Env":["PATH=/bin"],"User":"1:2"},"rootfs":{"type":"layers","diff_ids":["` + digest + `"]}}`,
		`{"rootfs":{"diff_ids":["sha256:../../x"]}}`, `{"rootfs":{"diff_ids":["a","b"]}}`, `{"config":null}`, `null`, ``, `{"config":{"StopSignal":"-1"}}`,
	} {
		f.Add([]byte(seed), int64(1))
	}
	f.Add([]byte(`{}`), int64(-1))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		manifest := ocispec.Manifest{Config: ocispec.Descriptor{Size: size}, Layers: []ocispec.Descriptor{{Size: size}}}
		img, err := describeImage("skep.test/a:1", manifest, data)
		if err != nil {
			return
		}
		if img.Size < 0 {
			t.Errorf("an image of %d bytes", img.Size)
		}
		if img.chainID != "" && !validDigest.MatchString(img.chainID) {
			t.Errorf("snapshot %q", img.chainID)
		}
		parseSignal(img.config.StopSignal)
	})
}
