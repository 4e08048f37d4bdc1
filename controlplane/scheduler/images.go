package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What an image must weigh at least to matter, and from which size on, for each image of the pod, more makes no difference.
const (
	smallImages = 23 << 20
	largeImage  = 1000 << 20
)

// image is one that nodes report to have.
type image struct {
	on   counts // 1 by the index of each host that has it
	size int64
	n    int // hosts that have it
}

// setImages takes over what a node has.
func (c *cluster) setImages(h *host, list []corev1.ContainerImage) {
	if slices.EqualFunc(h.images, list, func(a, b corev1.ContainerImage) bool {
		return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
	}) {
		return
	}
	each := func(of []corev1.ContainerImage, do func(name string, size int64)) {
		seen := map[string]bool{}
		for i := range of {
			for _, name := range of[i].Names {
				if name = imageName(name); !seen[name] {
					seen[name] = true
					do(name, of[i].SizeBytes)
				}
			}
		}
	}
	each(h.images, func(name string, _ int64) {
		if im := c.images[name]; im != nil {
			im.on.add(h.index, -1)
			if im.n--; im.n == 0 {
				delete(c.images, name)
			}
		}
	})
	h.images = list
	each(list, func(name string, size int64) {
		im := c.images[name]
		if im == nil {
			im = &image{}
			c.images[name] = im
		}
		im.on.add(h.index, 1)
		im.n, im.size = im.n+1, size
	})
}

// imageName is an image's name with its tag.
func imageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}

// imageScore prefers hosts that have the pod's images, by their sizes; the fewer hosts have an image, the less it counts, so that not all pods go
// where it was first.
type imageScore struct{}

type imageRating struct {
	images []*image
	hosts  int
	limit  int64
}

func (imageScore) rating(c *cluster, req *request) rating {
	if len(c.images) == 0 {
		return nil
	}
	r := &imageRating{hosts: len(c.order.hosts())}
	sources := int64(0)
	want := func(name string) {
		sources++
		if im := c.images[imageName(name)]; im != nil {
			r.images = append(r.images, im)
		}
	}
	spec := &req.pod.Spec
	for i := range spec.InitContainers {
		want(spec.InitContainers[i].Image)
	}
	for i := range spec.Containers {
		want(spec.Containers[i].Image)
	}
	for i := range spec.Volumes {
		if v := spec.Volumes[i].Image; v != nil {
			want(v.Reference)
		}
	}
	if len(r.images) == 0 {
		return nil
	}
	r.limit = largeImage * sources
	return r
}

func (r *imageRating) rate(hosts []*host, scores []int64) {
	for n, h := range hosts {
		scores[n] = r.of(h)
	}
}

func (r *imageRating) of(h *host) int64 {
	sum := int64(0)
	for _, im := range r.images {
		if im.on.at(h.index) > 0 {
			sum += int64(float64(im.size) * (float64(im.n) / float64(r.hosts)))
		}
	}
	sum = min(max(sum, smallImages), r.limit)
	return maxScore * (sum - smallImages) / (r.limit - smallImages)
}
