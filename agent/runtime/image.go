package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ErrImageName means that the image's name cannot be parsed.
var ErrImageName = errors.New("invalid image name")

// ErrImageAbsent means that the node does not have the image.
var ErrImageAbsent = errors.New("image is not present")

// Image is an image that is unpacked on this node.
type Image struct {
	Name string // normalised
	ID   string // name@digest
	Size int64  // bytes in the content store

	chainID string
	config  ocispec.ImageConfig
}

// digest is the digest that the image's name was resolved to.
func (i Image) digest() string { return i.ID[strings.LastIndexByte(i.ID, '@')+1:] }

// Normalize turns a short image name into a full reference, as docker does.
func Normalize(image string) (string, error) {
	named, err := reference.ParseDockerRef(image)
	if err != nil {
		return "", fmt.Errorf("%w %q: %w", ErrImageName, image, err)
	}
	return named.String(), nil
}

// imageCache saves the four calls for what a container needs of its image. Any change of any image
// empties it, except users: their key is the image's content, which never changes.
type imageCache struct {
	mu         sync.Mutex
	generation int
	byName     map[string]Image
	users      map[string]specs.User // chain ID and user -> resolved
}

func (c *imageCache) init() { c.byName, c.users = map[string]Image{}, map[string]specs.User{} }

func (c *imageCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	clear(c.byName)
}

func (c *imageCache) get(name string) (Image, int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	img, ok := c.byName[name]
	return img, c.generation, ok
}

// store keeps what was read in a generation, unless an image changed in between.
func (c *imageCache) store(name string, img Image, generation int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		c.byName[name] = img
	}
}

// Image returns an unpacked image; one that is present but not unpacked for
// the snapshotter is unpacked first. ErrImageAbsent if the node lacks it.
func (r *Runtime) Image(ctx context.Context, image string) (Image, error) {
	ctx = r.ctx(ctx)
	name, err := Normalize(image)
	if err != nil {
		return Image{}, err
	}
	img, generation, ok := r.images.get(name)
	if ok {
		return img, nil
	}
	stored, err := r.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return Image{}, fmt.Errorf("%s: %w", name, ErrImageAbsent)
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	img, err = r.inspect(ctx, stored)
	if err != nil {
		return Image{}, err
	}
	r.images.store(name, img, generation)
	return img, nil
}

func (r *Runtime) inspect(ctx context.Context, stored images.Image) (Image, error) {
	store := r.client.ContentStore()
	manifest, err := images.Manifest(ctx, store, stored.Target, platforms.Default())
	if errdefs.IsNotFound(err) {
		return Image{}, fmt.Errorf("%s is incomplete: %w", stored.Name, ErrImageAbsent)
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", stored.Name, err)
	}
	if manifest.Config.Size > maxConfig {
		return Image{}, fmt.Errorf("image %s: configuration of %d bytes: %w", stored.Name, manifest.Config.Size, ErrTooLarge)
	}
	data, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: configuration: %w", stored.Name, err)
	}
	img, err := describeImage(stored.Name, manifest, data)
	if err != nil {
		return Image{}, err
	}
	img.ID = imageID(stored)
	if _, err := r.snapshotter().Stat(ctx, img.chainID); err != nil && img.chainID != "" {
		if err := containerd.NewImage(r.client, stored).Unpack(ctx, r.cfg.Snapshotter); err != nil {
			return Image{}, fmt.Errorf("unpack image %s: %w", stored.Name, err)
		}
	}
	return img, nil
}

// validDigest is the form of a layer's digest, which becomes part of a snapshot's name.
var validDigest = regexp.MustCompile(`^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$`)

// describeImage reads a manifest and a configuration. Both come from the image's builder and are
// not trusted.
func describeImage(name string, manifest ocispec.Manifest, data []byte) (Image, error) {
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return Image{}, fmt.Errorf("image %s: configuration: %w", name, err)
	}
	for _, id := range config.RootFS.DiffIDs {
		if !validDigest.MatchString(id.String()) {
			return Image{}, fmt.Errorf("image %s: configuration: %q is no layer's digest", name, id)
		}
	}
	img := Image{Name: name, Size: manifest.Config.Size, config: config.Config}
	if len(config.RootFS.DiffIDs) > 0 {
		img.chainID = identity.ChainID(config.RootFS.DiffIDs).String()
	}
	for _, layer := range manifest.Layers {
		img.Size += layer.Size
	}
	if img.Size < 0 {
		return Image{}, fmt.Errorf("image %s: manifest: negative sizes", name)
	}
	return img, nil
}

func imageID(stored images.Image) string {
	if named, err := reference.ParseNormalizedNamed(stored.Name); err == nil {
		return reference.TrimNamed(named).Name() + "@" + stored.Target.Digest.String()
	}
	return stored.Target.Digest.String()
}

// ImageExists says whether the node has the image.
func (r *Runtime) ImageExists(ctx context.Context, image string) (bool, error) {
	_, err := r.Image(ctx, image)
	if errors.Is(err, ErrImageAbsent) {
		return false, nil
	}
	return err == nil, err
}

// Images lists the node's images.
func (r *Runtime) Images(ctx context.Context) ([]Image, error) {
	ctx = r.ctx(ctx)
	stored, err := r.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var list []Image
	for _, s := range stored {
		size, err := s.Size(ctx, r.client.ContentStore(), platforms.Default())
		if err != nil {
			continue // being pulled
		}
		list = append(list, Image{Name: s.Name, ID: imageID(s), Size: size})
	}
	return list, nil
}

// Import reads a docker archive or an OCI layout as a tar stream (gzip too), unpacks its images and
// returns their normalised names. They are pinned: if no registry has them, a collected image would
// be lost. A pull of the same name removes the pin.
func (r *Runtime) Import(ctx context.Context, archive io.Reader) ([]string, error) {
	ctx = r.ctx(ctx)
	ctx, done, err := r.lease(ctx, "import")
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer done()
	plain, err := decompress(archive)
	if err != nil {
		return nil, err
	}
	imported, err := r.client.Import(ctx, plain, containerd.WithImageRefTranslator(importName),
		containerd.WithImageLabels(map[string]string{pinnedLabel: pinnedValue}))
	if err != nil {
		return nil, fmt.Errorf("import: not a docker archive or OCI layout, or it is damaged: %w", err)
	}
	if len(imported) == 0 {
		return nil, errors.New("import: the archive names no image; save it with a tag, or annotate the OCI index with org.opencontainers.image.ref.name")
	}
	r.images.clear()
	var names []string
	for _, img := range imported {
		if _, err := r.Image(ctx, img.Name); err != nil {
			return names, fmt.Errorf("import %s: %w", img.Name, err)
		}
		names = append(names, img.Name)
	}
	return names, nil
}

// importName translates an OCI layout's reference annotation. A bare tag has no repository: "" is
// returned.
func importName(name string) string {
	if !strings.ContainsAny(name, ":/@") {
		return ""
	}
	normal, err := Normalize(name)
	if err != nil {
		return ""
	}
	return normal
}
